"""`hybrid status --watch` on a terminal: a page that is drawn again whenever something changes, and obeys keys.

The folder is read in a thread, since a mount may hang for half a minute: keys and Ctrl-C work at once, and the page
says for how long it waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from rich.console import Console

from hybrid.commands.watch_screen import Look, Page
from hybrid.errors import BadData, Temporary
from hybrid.machine.keys import pressed_keys
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, duration
from hybrid.status.sparklines import Trend

DRAW_SECONDS = 0.5
"""Seconds between two drawings, so that times go on and a resized window is filled."""
MAX_MESSAGE = 300
LEAVE, AGAIN = ("q", "Q"), ("r", "R")
DOWN, UP = ("j", "\x1b[B", "\x1bOB"), ("k", "\x1b[A", "\x1bOA")

TakeLook = Callable[[], Look]


class Reader:
    """Looks at the runs in a thread, every so many seconds. `look` is the last one that succeeded, None before."""

    def __init__(self, read: TakeLook, every: float) -> None:
        self._read, self._every = read, every
        self._again, self._stopped = threading.Event(), False
        self.look: Look | None = None
        self.problem = ""  # why they could not be read just now
        self.code = Temporary.exit_code
        self.failure: BaseException | None = None  # ends the watching
        self.number = 0  # of successful readings
        self.since = time.monotonic()  # when the last reading began, or ended
        self.reading = True
        threading.Thread(target=self._loop, name="reader", daemon=True).start()

    def look_again(self) -> None:
        """Read now."""
        self._again.set()

    def stop(self) -> None:
        """Begin no further reading."""
        self._stopped = True
        self._again.set()

    def _loop(self) -> None:
        while not self._stopped:
            self.since, self.reading = time.monotonic(), True
            try:
                self.look = self._read()
                self.problem, self.number = "", self.number + 1
            except (BadData, Temporary) as error:
                self.problem, self.code = clean_line(f"waiting: {error.message}", MAX_MESSAGE), error.exit_code
            except BaseException as error:  # noqa: BLE001  raised again by the thread that draws
                self.failure = error
                return
            self.since, self.reading = time.monotonic(), False
            self._again.wait(self._every)
            self._again.clear()

    def state(self) -> str:
        """What it does now, in words."""
        passed = time.monotonic() - self.since
        if self.reading:
            return f"reading the folder, for {duration(passed)}" if passed >= 1 else "reading the folder"
        return f"looked {duration(passed)} ago, the next time in {duration(max(0.0, self._every - passed))}"


def watch_on_screen(console: Console, read: TakeLook, every: float, title: str) -> Reader:
    """Show what is read until all runs have ended, `q` is pressed or Ctrl-C. Returns the reader, with its last look."""
    interrupt_on_termination()
    reader, trends, began = Reader(read, every), dict[str, Trend](), time.monotonic()
    look, drawn, first = None, 0, 0
    try:
        with _messages() as messages, pressed_keys() as pressed, console.screen() as screen:
            while not _is_over(reader):
                if reader.look and reader.number != drawn:
                    drawn, look = reader.number, replace(reader.look, trends=trends)
                    for run in look.runs:
                        trends.setdefault(run.id, Trend()).add(time.monotonic() - began, run.sum("done"))
                screen.update(
                    Page(look, f"{datetime.now().astimezone():%H:%M:%S}  {title}", _footer(reader, messages), first)
                )
                key = pressed(DRAW_SECONDS)
                if key in LEAVE:
                    break
                if key in AGAIN:
                    reader.look_again()
                first = max(0, first + (key in DOWN) - (key in UP))
    except KeyboardInterrupt:
        pass
    finally:
        reader.stop()
    if reader.failure:
        raise reader.failure
    return reader


def _footer(reader: Reader, messages: Sequence[str]) -> str:
    said = reader.problem or "".join(messages[-1:])
    return " | ".join(filter(None, [said, f"q quits, r reads now; {reader.state()}"]))


def _is_over(reader: Reader) -> bool:
    """Whether nothing is left to wait for."""
    if reader.failure:
        return True
    return reader.number > 0 and not reader.problem and _ended(reader.look)


def _ended(look: Look | None) -> bool:
    return look is not None and all(run.over for run in look.runs)


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Within the block, messages of `hybrid` come into the list: on standard error they would fall into the page."""
    log, messages = logging.getLogger("hybrid"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        messages[:] = [*messages[-9:], clean_line(record.getMessage(), MAX_MESSAGE)]
        return False

    log.addFilter(keep)
    try:
        yield messages
    finally:
        log.removeFilter(keep)

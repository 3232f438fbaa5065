"""`hybrid status --watch` on a terminal: the page fits, says what is known, obeys keys, and leaves all as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hybrid.commands.watch_screen import Look, Page
from hybrid.errors import BadData
from hybrid.machine.usage import Usage, UsageLog
from hybrid.status.run_status import RunStatus
from hybrid.status.sparklines import Trend, recent, sparkline
from tests.support.run_folder import FIRST, SECOND, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


def page(look: Look, width: int = 120, height: int = 30, first: int = 0) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(Page(look, "12:00:00  status", "q quits", first), end="")
    return captured.get().splitlines()


def load(busy: float = 50.0) -> UsageLog:
    log = UsageLog()
    log.gpus, log.gpu_memory_total = 1, 15360
    for minute in range(10):
        sample = {"gpu_busy": busy, "power": 70.0, "gpu_memory": 1024.0 * minute, "cpu": 120.0, "memory": 2048.0}
        log.add(60.0 * minute, sample, 60)
    return log


def test_a_page_says_what_is_done_and_safe_who_works_and_what_fails(place: RunFolder) -> None:
    place.shard(0, 1)
    place.fetch()
    place.shard(2, error="timeout")
    place.beat(usage=load().to_json(), troubles={"the GPU": "idle for 12 min"})
    shown = "\n".join(page(Look([place.look()], named=True)))
    for words in (
        "answer: 3 of 6 items, 50 %, 1 failed",
        "12 items/min, 900 prompt tokens/s, 120 new tokens/s, about 15 s to go",
        "2 received here, 1 in the folder alone, 3 on one machine alone",
        "2 files of workers not yet in the folder",
        "waits    the GPU side is at work on 'answer'",
        "failed   1 in 'answer': timeout 1",
        f"workers  {FIRST} first seen, on answer, Tesla T4, 40 GB of disk free",
        "▅▅▅▅▅▅▅▅▅▅ GPU 50 % busy, 70 W, 12 Wh so far; the last 10 min",
        "▁▁▂▂▃▃▄▄▅▅ GPU memory 9.0 of 15.0 GiB",
        "CPU 120 % of one core, 2.0 GiB of memory",
        "problem with the GPU: idle for 12 min",
    ):
        assert words in shown
    place.beat(1, state="ended")
    shown = "\n".join(page(Look([place.look()], named=True)))
    assert "1 ended" in shown
    assert "waits    'answer' waits for a worker: the GPU side has to do it" in shown


@pytest.mark.parametrize(("width", "height"), [(20, 2), (40, 5), (80, 24), (200, 60)])
@pytest.mark.parametrize("named", [True, False])
def test_a_page_has_the_size_of_its_terminal(place: RunFolder, width: int, height: int, *, named: bool) -> None:
    place.shard(0, error="x" * 60)
    place.beat(usage=load().to_json(), troubles={"a": "b" * 300}, device="宽" * 90)
    place.beat(attempt=SECOND)
    look = Look([place.look()] * (1 if named else 9), named=named, stale=["grades of other outputs"])
    shown = page(look, width, height)
    assert len(shown) == height
    assert all(len(one.encode("utf-16-le")) // 2 <= width for one in shown)
    if height == 5:
        assert re.fullmatch(r"\d+ more rows below: the key j, .*", shown[-2])
        assert page(look, width, height, first=2)[1] != shown[1]
        assert "more row" not in page(look, width, height, first=1000)[-2]


def test_hostile_texts_are_shown_escaped_and_never_obeyed(place: RunFolder) -> None:
    hostile = "\x1b]0;title\x07\x1b[2J[bold]\u202e\r\n\x9b31m"
    place.shard(0, error=hostile)
    place.beat(
        model=hostile,
        device=hostile,
        time=hostile,
        troubles={hostile: hostile},
        gpu={"name": hostile, "busy": hostile},
        round={"series": hostile, "text": '{"round": 1, "metrics": {}}'},
        usage={"period": 60, "at": [0], "metrics": {"gpu_memory": {"mean": [5], "max": [None]}}},
        progress={"stage": hostile, "total": 1e300, "fresh": float(10**14), "seconds": 1e-300},
    )
    look = Look([place.look(), RunStatus(hostile, error=BadData(hostile, hint=hostile))], stale=[hostile])
    for named in (True, False):
        shown = page(Look(look.runs, named, {}, {place.run.id: [hostile]}, look.stale))
        text = "\n".join(shown)
        assert "[bold]" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_a_terminal_without_unicode_gets_bars_of_plain_characters(place: RunFolder) -> None:
    place.shard(0, 1)
    place.beat(usage=load().to_json())
    with (place.root / "screen").open("w", encoding="ascii") as file:
        console = Console(file=file, width=120, height=20, force_terminal=False)
        console.print(Page(Look([place.look()], named=True), "status", "q"))
    text = (place.root / "screen").read_text()
    assert "##########...................." in text
    assert "========== GPU 50 % busy" in text


def test_values_become_a_line_of_characters_with_gaps() -> None:
    assert sparkline([0, 50, 100, None, 1000, -5], 100) == "▁▅█ █▁"
    assert sparkline([0, 50, 100], 100, only_ascii=True) == "_=#"
    assert sparkline([5, None], 0) == "▁ "
    log = UsageLog()
    for minute in (0, 1, 4):
        log.add(60.0 * minute, {"cpu": float(minute)}, 5)
    found = Usage.from_json(log.to_json())
    assert found
    assert recent(found, "cpu", 10) == [0, 1, None, None, 4]
    assert recent(found, "cpu", 2) == [None, 4]
    assert recent(found, "power", 2) == [None, None]
    assert recent(Usage(60, []), "cpu", 2) == [None]


def test_items_a_minute_are_spread_over_the_minutes_in_which_nobody_looked() -> None:
    trend = Trend(most=5)
    assert trend.per_minute() == []
    for seconds, done in ((0, 10), (30, 12), (70, 22), (250, 52), (300, 52)):
        trend.add(seconds, done)
    assert trend.per_minute() == [10, 10, 10, 10, 0]
    trend.add(20_000, 1)  # a shard was deleted
    assert trend.per_minute() == [0] * 5


class Terminal:
    """A real terminal of a size, and what was written to it, which a thread reads as it comes."""

    def __init__(self, columns: int, rows: int) -> None:
        self.near, self.far = pty.openpty()
        self.written = ""
        self.resize(columns, rows)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            read = os.read(self.near, 65536).decode("utf-8", "replace")
            self.written += read

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, shown: Callable[[str], object], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not shown(self.written):
            assert time.monotonic() < deadline, self.written[-3000:]
            time.sleep(0.02)

    def press(self, keys: bytes) -> None:
        os.write(self.near, keys)

    @contextmanager
    def watching(self, place: RunFolder, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`hybrid status --watch` in the foreground of this terminal, as a shell starts it."""
        command = [sys.executable, "-m", "hybrid", "status", "--folder", str(place.folder), "--watch", "1s", *arguments]
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        how: Any = {"stdin": self.far, "stdout": self.far, "stderr": self.far, "start_new_session": True}
        with subprocess.Popen(command, **how, env=environment, preexec_fn=self._own) as process:  # noqa: PLW1509
            try:
                yield process
            finally:
                process.kill()

    def _own(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(self.far, termios.TIOCSCTTY, 0)


LEFT = "\x1b[?1049l"
"""Back from the screen of a program to that of the shell."""


@pytest.mark.slow
def test_keys_and_sizes_of_a_real_terminal_are_obeyed_and_it_is_left_as_it_was(place: RunFolder) -> None:
    place.shard(0, 1)
    terminal = Terminal(100, 20)
    before = termios.tcgetattr(terminal.far)
    with terminal.watching(place, place.run.id) as process:
        terminal.until(lambda text: "2 of 6 items" in text and "q quits" in text)
        assert terminal.written.startswith("\x1b[?1049h")
        assert termios.tcgetattr(terminal.far)[3] & termios.ICANON == 0
        place.shard(2)
        terminal.press(b"r")
        terminal.until(lambda text: "3 of 6 items" in text)
        terminal.written = ""
        terminal.resize(60, 5)
        terminal.until(lambda text: "more row" in text)
        terminal.press(b"q")
        terminal.until(lambda text: LEFT in text and "  next  " in text.partition(LEFT)[2])
        assert process.wait(240) == 4
    assert termios.tcgetattr(terminal.far) == before
    assert f"{place.run.id}\r\n  what        pipeline seal-eval" in terminal.written.partition(LEFT)[2]


@pytest.mark.slow
def test_ctrl_c_and_the_end_of_all_runs_leave_the_screen_with_the_exit_code_of_the_runs(place: RunFolder) -> None:
    terminal = Terminal(80, 10)
    with terminal.watching(place) as process:
        terminal.until(lambda text: "0 of 6" in text)
        terminal.press(b"\x03")
        assert process.wait(240) == 4
    terminal.until(lambda text: LEFT in text)
    place.shard(*range(6), error="timeout")
    with terminal.watching(place) as process:
        assert process.wait(240) == 3
    terminal.until(lambda text: "6 of 6 items done, 6 of them failed" in text)
    with terminal.watching(place, "no-such-run") as process:
        assert process.wait(240) == 2
    terminal.until(lambda text: "error: " in text)

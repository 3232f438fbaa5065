"""`hybrid models pull`: the Ollama server downloads a model; progress is a bar, lines or JSON events."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError
from hybrid.machine.late_imports import import_object
from hybrid.machine.terminal import clean_line
from hybrid.models.names import HOST, OllamaName

LINE_SECONDS, EVENT_SECONDS = 10.0, 1.0
"""Seconds between two lines, or two events, about the same layer."""


class Display(Protocol):
    """Shows the steps of a pull."""

    def step(self, step: Any) -> None:
        """The server reports a step; for a layer, `completed` of `total` bytes are there."""

    def close(self) -> None:
        """No more steps."""


@click.command("pull")
@click.argument("name", metavar="NAME")
@click.option("--insecure", is_flag=True, help="The registry that NAME begins with speaks HTTP without TLS.")
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def pull(name: str, insecure: bool, as_json: bool) -> None:
    """Have the Ollama server (OLLAMA_HOST) fetch a model: NAME:TAG, USER/NAME:TAG, or HOST/USER/NAME:TAG of a mirror.

    The same command continues an interrupted download. It prints the name with the model's digest.
    """
    wanted = ollama_name(name)
    if insecure and wanted.host.lower() == HOST:
        raise UsageError("--insecure is for a registry of yours", hint="NAME begins with it: HOST:PORT/USER/NAME:TAG")
    fetch = import_object("hybrid.backends.ollama.pulling:pull", needed_for="pulling a model")
    display = _display(as_json=as_json)
    try:
        found = fetch(str(wanted), display.step, insecure=insecure)
    finally:
        display.close()
    if as_json:
        _emit({"event": "done", "name": found.name, "digest": found.digest, "size": found.size})
    else:
        click.echo(f"{found.name}@{found.digest[:12]}")


def ollama_name(text: str) -> OllamaName:
    """Parse a name from the command line. Raises UsageError."""
    try:
        return OllamaName.parse(text)
    except BadData as error:
        raise UsageError(error.message, hint=error.hint) from error


def _display(*, as_json: bool) -> Display:
    if as_json:
        return PullEvents()
    if logging.getLogger().level >= logging.ERROR:
        return NoDisplay()
    return PullBars() if sys.stderr.isatty() else PullLines()


class NoDisplay:
    def step(self, step: Any) -> None:
        """Nothing is shown."""

    def close(self) -> None:
        """Nothing was shown."""


class Throttle:
    """Lets through each new step, the end of a layer, and in between one step every `every` seconds."""

    def __init__(self, every: float) -> None:
        self._every, self._last, self._next = every, "", 0.0

    def lets_through(self, step: Any) -> bool:
        new, over = step.status != self._last, step.digest and step.completed >= step.total
        if not (new or over or time.monotonic() >= self._next):
            return False
        self._last, self._next = step.status, time.monotonic() + self._every
        return True


class PullEvents:
    """JSON objects on stdout."""

    def __init__(self) -> None:
        self._throttle = Throttle(EVENT_SECONDS)

    def step(self, step: Any) -> None:
        if self._throttle.lets_through(step):
            bytes_ = {"digest": step.digest, "completed": step.completed, "total": step.total} if step.digest else {}
            _emit({"event": "step", "status": step.status, **bytes_})

    def close(self) -> None:
        """Each was written at once."""


class PullLines:
    """Lines on stderr, where that is no terminal."""

    def __init__(self) -> None:
        self._throttle = Throttle(LINE_SECONDS)

    def step(self, step: Any) -> None:
        if self._throttle.lets_through(step):
            far = f": {step.completed / 1e6:,.1f} of {step.total / 1e6:,.1f} MB" if step.digest else ""
            click.echo(clean_line(f"{step.status}{far}", 200), err=True)

    def close(self) -> None:
        """Each was written at once."""


class PullBars:
    """One bar per layer, on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._rows: dict[str, TaskID] = {}
        self._bars.start()

    def step(self, step: Any) -> None:
        if not step.digest:
            self._bars.console.print(step.status, markup=False, highlight=False)
            return
        if step.digest not in self._rows:
            self._rows[step.digest] = self._bars.add_task(step.status, total=step.total)
        self._bars.update(self._rows[step.digest], completed=step.completed, total=step.total)

    def close(self) -> None:
        self._bars.stop()


def _emit(event: dict[str, Any]) -> None:
    click.echo(encode(event))

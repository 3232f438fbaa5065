"""A command that runs beside the server: signals go on to it, and its exit code is ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from hybrid.errors import CannotRun, UsageError

POLITE = ("SIGINT", "SIGTERM", "SIGHUP")
LOOK = 0.2


def refuse_unknown(command: list[str]) -> None:
    """Raise UsageError when there is no such program."""
    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no command '{command[0]}'", hint="hybrid ollama up [OPTIONS] -- COMMAND ARGUMENTS")


def run(command: list[str], environment: Mapping[str, str], heard: list[int], watch: Callable[[], None]) -> int:
    """Run `command` with our streams and these variables more; `watch` is called now and then. Returns its exit code.

    Of a command that a signal ended it is 128 and the signal's number, as in a shell. Ctrl-C at a terminal reaches
    the command by itself; signals that are sent to us alone, which are in `heard`, are sent on.
    """
    try:
        child = subprocess.Popen(command, env={**os.environ, **environment})  # noqa: S603
    except OSError as error:
        raise CannotRun(f"'{command[0]}' cannot be started: {error.strerror}") from error
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(LOOK)
            return code if code >= 0 else 128 - code
        while heard:
            number = heard.pop(0)
            if number == signal.SIGTERM or not _at_terminal():
                child.send_signal(number)
        watch()


def wait(heard: list[int], watch: Callable[[], None]) -> None:
    """Wait for a signal; `watch` is called now and then."""
    while not heard:
        time.sleep(LOOK)
        watch()


@contextmanager
def signals() -> Iterator[list[int]]:
    """Ctrl-C, SIGTERM and SIGHUP as they come, in order, instead of what they do otherwise."""
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)

    before = {getattr(signal, name): signal.signal(getattr(signal, name), hear) for name in POLITE}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_terminal() -> bool:
    """Whether we are in the foreground of a terminal, which sends its signals to all of the foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

"""Runs a command beside the server: forwards signals to it and returns its exit code."""

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

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
POLL_SECONDS = 0.2


def refuse_unknown(command: list[str]) -> None:
    """Raise UsageError when there is no such program."""
    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no command '{command[0]}'", hint="hybrid ollama up [OPTIONS] -- COMMAND ARGUMENTS")


def run(command: list[str], environment: Mapping[str, str], received: list[int], watch: Callable[[], None]) -> int:
    """Run `command` with our streams and additional `environment`; `watch` is called periodically. Returns its exit
    code.

    For a command that was ended by a signal it is 128 + the signal's number, as in a shell. Ctrl-C at a terminal
    reaches the command directly; signals that were sent to this process alone, in `received`, are forwarded.
    """
    try:
        child = subprocess.Popen(command, env={**os.environ, **environment})  # noqa: S603
    except OSError as error:
        raise CannotRun(f"'{command[0]}' cannot be started: {error.strerror}") from error
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = child.wait(POLL_SECONDS)
            return code if code >= 0 else 128 - code
        while received:
            number = received.pop(0)
            if number == signal.SIGTERM or not _at_terminal():
                child.send_signal(number)
        watch()


def wait(received: list[int], watch: Callable[[], None]) -> None:
    """Wait for a signal; `watch` is called periodically."""
    while not received:
        time.sleep(POLL_SECONDS)
        watch()


@contextmanager
def signals() -> Iterator[list[int]]:
    """Inside the block, Ctrl-C, SIGTERM and SIGHUP are only recorded, in order, in the list."""
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {getattr(signal, name): signal.signal(getattr(signal, name), record) for name in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_terminal() -> bool:
    """Whether this process is in the foreground of a terminal, whose signals go to the whole foreground group."""
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

"""The guard, a process between `hybrid` and a child of it: it stops the child when `hybrid` asks for it or has ended.

    python guard.py GRACE COMMAND ARGUMENTS...

Its stdin is a pipe from `hybrid`. When the pipe closes, also by kill -9, the guard stops the command and all its child
processes: SIGTERM, and SIGKILL after GRACE seconds. It exits with the command's exit code. It imports nothing of this
project, so that it stays small: it lives as long as the command.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

POLL_SECONDS = 0.1
"""Seconds between two checks of the command."""


def main(grace: float, command: list[str]) -> int:
    """Run `command` until it ends or stdin closes. Returns its exit code, negative for a signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a handler, since a child process inherits ignored signals
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
    while child.poll() is None and not _released():
        pass
    if child.returncode is None:
        _signal(child.pid, signal.SIGTERM)
        _wait(child, grace)
    _signal(child.pid, signal.SIGKILL)  # its remaining child processes
    return child.wait()


def _released() -> bool:
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(0, 1)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

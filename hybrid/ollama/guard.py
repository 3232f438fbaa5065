"""The guard, a process between `hybrid` and the server: it stops the server when `hybrid` asks for it or has ended.

    python guard.py GRACE COMMAND ARGUMENTS...

Its stdin is a pipe from `hybrid`. When the pipe closes, also by kill -9, the guard stops the server and all its child
processes: SIGTERM, and SIGKILL after GRACE seconds. It exits with the server's exit code. It imports nothing of this
project, so that it stays small: it lives as long as the server.
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
"""Seconds between two checks of the server."""


def main(grace: float, command: list[str]) -> int:
    """Run `command` until it ends or stdin closes. Returns its exit code, negative for a signal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a handler, since a child process inherits ignored signals
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
    while server.poll() is None and not _released():
        pass
    if server.returncode is None:
        _signal(server.pid, signal.SIGTERM)
        _wait(server, grace)
    _signal(server.pid, signal.SIGKILL)  # its remaining child processes
    return server.wait()


def _released() -> bool:
    readable, _, _ = select.select([0], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(0, 1)


def _wait(server: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

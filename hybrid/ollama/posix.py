"""The guard, a process between us and the server: it ends the server when we say so or are no more, kill -9 or not.

    python posix.py GRACE COMMAND ARGUMENTS...

Its input is a pipe that we hold: when that ends, for whatever reason, so does the server, with all that it started:
SIGTERM, and SIGKILL after GRACE seconds. It leaves with the server's exit code. Imports nothing of this project: it is
there as long as the server and should be small.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

LOOK = 0.1
"""Seconds between two looks at the server."""


def main(grace: float, command: list[str]) -> int:
    """Run `command` until it ends or our input does. Returns its exit code, negative for a signal."""
    for deaf in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(deaf, lambda *_: None)  # a handler, since a child inherits what is ignored
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
    while server.poll() is None and not _released():
        pass
    if server.returncode is None:
        _signal(server.pid, signal.SIGTERM)
        _wait(server, grace)
    _signal(server.pid, signal.SIGKILL)  # what it left behind
    return server.wait()


def _released() -> bool:
    readable, _, _ = select.select([0], [], [], LOOK)
    return bool(readable) and not os.read(0, 1)


def _wait(server: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < until:
        time.sleep(LOOK)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the second of a group that is a zombie
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

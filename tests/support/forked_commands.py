"""Run hundreds of `hybrid` commands, each in its own process, forked from one that has imported everything.

Starting `hybrid` costs half a second, nearly all of it imports. The child process that accesses the folder is forked,
too, and a worker's waits are shortened `SPEED` times, by its clock as well, so that its decisions stay the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from hybrid import cli
from hybrid.folder import child
from hybrid.machine.clock import SystemClock
from hybrid.machine.late_imports import import_object
from hybrid.plugins import installed
from hybrid.worker import process

SPEED = 20.0


class ForkedChild:
    """Replaces the process that `IsolatedFolder` starts: the same code on pipes, without starting an interpreter."""

    def __init__(self, command: list[str], **_: object) -> None:
        asked, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(asked[1])
            os.close(answers[0])
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            with contextlib.suppress(BaseException):
                child.serve(Path(command[-1]), os.fdopen(asked[0], "rb"), os.fdopen(answers[1], "wb"))
            os._exit(0)
        os.close(asked[0])
        os.close(answers[1])
        self.stdin: IO[bytes] = os.fdopen(asked[1], "wb")
        self.stdout: IO[bytes] = os.fdopen(answers[0], "rb")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def prepare(pipelines: tuple[str, ...], commands: tuple[str, ...]) -> None:
    """Import what commands need, and hasten what waits, in this process and all that are forked from it."""
    for name in commands:
        import_object(cli.COMMANDS[name][0], needed_for="tests")
    for name in pipelines:
        installed.load("pipelines", name)
    installed.entry_points = cache(installed.entry_points)  # type: ignore[attr-defined]  # read from hundreds of files, and the same every time
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # it would read them, too
    child.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=ForkedChild, PIPE=-1, TimeoutExpired=child.subprocess.TimeoutExpired
    )
    process.time = SimpleNamespace(  # type: ignore[attr-defined]
        sleep=lambda seconds: time.sleep(seconds / SPEED), monotonic=time.monotonic
    )
    now = SystemClock.now
    SystemClock.now = lambda self: now(self) * SPEED  # type: ignore[method-assign]
    gc.collect()
    gc.freeze()  # so that a fork does not copy what it never changes


def started(act: Callable[[], Any]) -> int:
    """Do `act` in a process of its own, and go on; its id. It ends with the exit code that `act` leaves with."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        act()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 98
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def command(arguments: list[str], environment: Mapping[str, str], said: Path, rules: Path | None = None) -> int:
    """Run a command of `hybrid`, under the rules of failing calls in a file; its exit code. What it says is `said`."""

    def act() -> None:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(environment)
        os.chdir(said.parent)
        if rules:
            assert not ctypes.CDLL(None).failing_use(os.fsencode(rules)), "the library is not loaded"
        cli.main(arguments)

    return os.waitstatus_to_exitcode(os.waitpid(started(act), 0)[1])

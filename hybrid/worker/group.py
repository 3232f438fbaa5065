"""One worker for each GPU of this machine, as child processes: one status line, one stop, one exit code.

A child writes its progress to stdout, from which one line for all is made, and everything else to stderr. Its stdin is
a pipe that nothing is written to: it ends when the parent is killed.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, Any

from hybrid.errors import BadData, CannotRun, HybridError, Missed, NotFinished, Temporary, UsageError
from hybrid.machine import nvidia, threads
from hybrid.machine.terminal import count_of

ERRORS: dict[int, type[HybridError]] = {
    kind.exit_code: kind for kind in (HybridError, CannotRun, BadData, UsageError, Temporary, NotFinished, Missed)
}
"""Exit code -> its error, the worst first."""
OF_THE_RUNS = (0, Missed.exit_code, NotFinished.exit_code)
"""Exit codes that tell how the runs stand: the last worker to end knows it best."""
RESTARTS = 3
"""How often a worker that crashed is started again."""
PAUSE_S = 2.0
"""Seconds before the first restart; each further pause is twice as long."""
STATUS_S = 20.0
"""Seconds between two status lines."""
LONGEST_LINE = 4000
READERS_S = 5.0
"""Seconds to wait for the last lines of a child that has ended: its own children may hold the pipe open."""


def chosen_devices(asked: str, each: int = 1) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES for the workers that `--gpus` asks for; every worker gets `each` GPUs.

    `asked` is `all` or a list such as `0,2`. Raises UsageError for a GPU that is not here, CannotRun without any.
    """
    here = nvidia.visible()
    if not here:
        hidden = "CUDA_VISIBLE_DEVICES hides them" if nvidia.hidden() else "nvidia-smi lists none"
        raise CannotRun(
            f"--gpus {asked}: this machine has no GPU: {hidden}", hint="leave --gpus out, or look at doctor"
        )
    wanted = here if asked == "all" else [one.strip() for one in asked.split(",")]
    for one in wanted:
        if one not in here or wanted.count(one) > 1:
            raise UsageError(f"--gpus {asked}: '{one}' is not one of {', '.join(here)}, each once", hint="--gpus all")
    if len(wanted) < each:
        raise UsageError(
            f"--gpus {asked}: {count_of(len(wanted), 'GPU')}, and the option gpus={each} asks for {each} a worker",
            hint="ask for fewer: --backend-option gpus=N",
        )
    return [",".join(wanted[at : at + each]) for at in range(0, len(wanted) - each + 1, each)]


@dataclass
class Member:
    """The worker of one GPU, or of several that share a model."""

    devices: str
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    due: float | None = 0.0  # when it is to be started; None while it runs, and when it has ended
    progress: str = ""

    @property
    def name(self) -> str:
        return f"GPU {self.devices}"


Event = tuple[Member, str, Any]
"""A member, what happened (line, progress, ended), and the line or the exit code."""


@dataclass
class Group:
    """Workers as child processes. `command` gives a worker's command, `say` gets lines for the user."""

    members: list[Member]
    command: Callable[[], Sequence[str]]
    say: Callable[[str], None]
    pause_s: float = PAUSE_S
    events: queue.SimpleQueue[Event | None] = field(default_factory=queue.SimpleQueue)  # None: a signal has come
    stops: int = 0
    codes: list[tuple[str, int]] = field(default_factory=list)  # who ended, and how, in that order

    def run(self) -> None:
        """Run until all workers have ended. Raises the error of the worst that happened."""
        said, shown = time.monotonic(), ""
        with self._signals():
            while len(self.codes) < len(self.members):
                self._start_due()
                with suppress(queue.Empty):
                    self._take(self.events.get(timeout=self._wait()))
                line = self.status()
                if line != shown and time.monotonic() - said >= STATUS_S:
                    said, shown = time.monotonic(), line
                    self.say(line)
        if error := worst(self.codes):
            raise error

    def status(self) -> str:
        """One line: the progress of all workers."""
        return " | ".join(f"{one.name}: {one.progress}" for one in self.members if one.progress)

    def _wait(self) -> float:
        due = [one.due for one in self.members if one.due is not None]
        return min(1.0, max(0.0, min(due, default=1e9) - time.monotonic()))

    def _start_due(self) -> None:
        for member in self.members:
            if member.due is not None and (member.due <= time.monotonic() or self.stops):
                member.due = None
                if self.stops:
                    self.codes.append((member.name, NotFinished.exit_code))
                else:
                    self._start(member)

    def _start(self, member: Member) -> None:
        as_listed = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # by nvidia-smi
        environment = {
            **os.environ,
            **as_listed,
            "PYTHONPATH": os.pathsep.join(place for place in sys.path if place),
            "CUDA_VISIBLE_DEVICES": member.devices,
            "OMP_NUM_THREADS": str(max(1, threads.thread_count() // len(self.members))),
        }
        pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        own_group: Any = {"start_new_session": True} if sys.platform != "win32" else {"creationflags": 0x200}
        try:
            process = subprocess.Popen(self.command(), env=environment, **pipes, **own_group)  # noqa: S603
        except OSError as error:
            self.say(f"{member.name}: the worker cannot be started: {error.strerror}")
            self.codes.append((member.name, Temporary.exit_code))
            return
        member.process = process
        threading.Thread(target=self._follow, args=(member, process), daemon=True).start()

    def _follow(self, member: Member, process: subprocess.Popen[bytes]) -> None:
        """Turn what a child says, and its end, into events."""
        streams = (("progress", process.stdout), ("line", process.stderr))
        readers = [threading.Thread(target=self._read, args=(member, *one), daemon=True) for one in streams]
        for reader in readers:
            reader.start()
        code = process.wait()
        if process.stdin:
            process.stdin.close()
        for reader in readers:
            reader.join(READERS_S)
        self.events.put((member, "ended", code))

    def _read(self, member: Member, what: str, stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError), stream:
            while line := stream.readline(LONGEST_LINE):
                self.events.put((member, what, line.decode(errors="replace").rstrip()))

    def _take(self, event: Event | None) -> None:
        if event is None:
            self._stop()
            return
        member, what, told = event
        if what == "line":
            self.say(f"{member.name}: {told}")
        elif what == "progress":
            member.progress = told
        else:
            self._ended(member, told)

    def _ended(self, member: Member, code: int) -> None:
        member.process, member.progress = None, ""
        crashed = code < 0 or code == HybridError.exit_code
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if crashed and not self.stops and member.restarts < RESTARTS:
            pause = self.pause_s * 2**member.restarts
            member.restarts, member.due = member.restarts + 1, time.monotonic() + pause
            again = f"it is started again in {pause:g} s, for the {member.restarts}. of {RESTARTS} times"
            self.say(f"{member.name}: the worker {how}; {again}")
            return
        self.say(f"{member.name}: the worker {how}")
        self.codes.append((member.name, code))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within the block, Ctrl-C, SIGTERM and SIGHUP stop the workers; no worker outlives it."""

        def note(_: int, __: FrameType | None) -> None:
            self.events.put(None)

        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for member in self.members:
                if member.process:
                    member.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        self.stops += 1
        if self.stops == 1:
            self.say("stopping: every worker closes its open shard and copies it into the folder")
        for member in self.members:
            if member.process:
                with suppress(OSError):
                    member.process.terminate()


def worst(codes: Sequence[tuple[str, int]]) -> HybridError | None:
    """The error of workers that ended with these exit codes, in that order; None when their runs are done.

    The worst counts. Of codes that tell how the runs stand, that of the last one does: it saw what the others did.
    """
    known = [(name, code if code in (0, *ERRORS) else Temporary.exit_code) for name, code in codes]
    failures = [code for _, code in known if code not in OF_THE_RUNS]
    code = min(failures, key=list(ERRORS).index) if failures else known[-1][1]
    if code == 0:
        return None
    words = ", ".join(
        f"{name} {'was ended by ' + _signal_name(-one) if one < 0 else f'ended with {one}'}" for name, one in codes
    )
    return ERRORS[code](f"the workers: {words}", hint="each one's last lines are above; the same command goes on")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def end_with_parent() -> None:
    """End this process as Ctrl-C does when its stdin is closed: the parent holds the other end."""

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()

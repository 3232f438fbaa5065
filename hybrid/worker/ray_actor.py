"""One worker of a Ray cluster: the class of the actors, which runs `hybrid worker` as a child process on its node.

Ray calls the methods in threads of one process, where `work` blocks, so `lines` and `stop` are called meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO

from hybrid.errors import HybridError
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Medium
from hybrid.folder.runs import check_mark, run_ids
from hybrid.folder.spec import MAX_SPEC
from hybrid.machine import guard, home
from hybrid.machine.late_imports import import_object

GRACE_SECONDS = 300.0
"""How long a worker may take to carry its files once it was asked to stop, or once its actor has died."""
LONG_POLL_SECONDS = 2.0
MOST_LINES = 2000
LONGEST_LINE = 2000
LAST_EXIT_CODE = 7
"""The highest exit code of `hybrid`; any other code is that of a worker that was killed or could not start."""
MOST_DEATHS = 5
PAUSE_SECONDS = 5.0
"""Seconds before a worker that was killed is started again, times the number of its deaths."""


class RayWorker:
    """Runs `hybrid worker FOLDER *arguments`, with `--until` the Unix time `deadline`, if there is one."""

    def __init__(self, folder: str, arguments: Sequence[str], deadline: float | None) -> None:
        self._folder, self._arguments, self._deadline = folder, list(arguments), deadline
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._changed = threading.Condition()
        self._stopping, self._ended = threading.Event(), False
        self._child: subprocess.Popen[str] | None = None

    def look(self) -> dict[str, object]:
        """What this node is, and the runs that it sees in the folder; `error` when it does not see the folder."""
        found: dict[str, object] = {"host": platform.node(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        folder = IsolatedFolder(home.folder_at(self._folder))
        try:
            return {**found, "runs": seen(folder)}
        except HybridError as error:
            return {**found, "error": error.message}
        finally:
            folder.close()

    def work(self) -> int:
        """Run the worker until it ends by itself; one that was killed is started again. Returns its exit code."""
        if _was_restarted():
            self._say(f"Ray has started it again, on {platform.node()}")
        try:
            return self._until_end()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _until_end(self) -> int:
        deaths = 0
        while True:
            code = self._once()
            if 0 <= code <= LAST_EXIT_CODE or self._stopping.is_set():
                return code
            deaths += 1
            self._say(f"the worker was killed, or could not start (code {code}); that happened {deaths} times")
            if deaths == MOST_DEATHS or self._stopping.wait(PAUSE_SECONDS * deaths):
                return code

    def lines(self) -> list[str]:
        """What the worker has printed since the last call; waits a little for the first line, unless it has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._ended, LONG_POLL_SECONDS)
            found = list(self._lines)
            self._lines.clear()
        return found

    def stop(self) -> None:
        """Ask the worker to close its shard and end; `work` returns when it has."""
        self._stopping.set()
        if self._child and self._child.stdin:
            self._child.stdin.close()  # the guard's sign, as is the death of this process

    def _once(self) -> int:
        until = [] if self._deadline is None else [f"--until={max(0.0, self._deadline - time.time()):.0f}s"]
        command = [sys.executable, "-m", "hybrid", "worker", self._folder, *self._arguments, *until]
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", guard.__file__, str(GRACE_SECONDS), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ray kills the group of an actor that dies: the guard has to live on a little
        )
        self._child = child
        if self._stopping.is_set():
            self.stop()
        self._read(child.stdout)
        return child.wait()

    def _read(self, stream: IO[str] | None) -> None:
        for line in stream or ():
            self._say(line.rstrip("\n"))

    def _say(self, line: str) -> None:
        with self._changed:
            self._lines.append(line[:LONGEST_LINE])
            self._changed.notify_all()


def _was_restarted() -> bool:
    """Whether this process is that of an actor which had another one, perhaps on another node."""
    ray = import_object("ray", needed_for="hybrid worker --ray")
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def seen(folder: Medium) -> dict[str, str]:
    """Run -> the sha256 of its run.json, for all runs in the folder. Raises HybridError when it is not a folder."""
    check_mark(folder)
    return {run: hashlib.sha256(folder.read(f"runs/{run}/run.json", MAX_SPEC)).hexdigest() for run in run_ids(folder)}

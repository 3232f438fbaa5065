"""Laptops and GPU machines as real processes, each with its folder; a faulty sync and failing system calls."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError
from hybrid.folder.medium import Disk
from hybrid.folder.notes import read_notes
from hybrid.folder.shards import verify_shard
from tests.support.failing_calls import FailingCalls
from tests.support.faulty_sync import FaultySync
from tests.support.real_machines import Machine

SEEDS = range(1, 1 + int(os.environ.get("HYBRID_TEST_SEEDS", "1")))
"""Seeds of the histories."""
ALLOWED_EXIT_CODES = {0, 3, 4, 5, 6, -signal.SIGKILL}
"""Exit codes of commands that meet faults: 1, 2 and 7 are for what no fault of a folder can be."""


class Fleet:
    """Laptops and GPU machines below `root`, each with its folder, and the faulty sync between them."""

    def __init__(self, root: Path, library: Path, seed: int, machine: Callable[[str, Path], Machine]) -> None:
        self.root, self.draw, self._machine = root, random.Random(seed), machine
        self.failing = FailingCalls(library, root / "rules")
        self.laptops, self.gpus = dict[str, Machine](), dict[str, Machine]()
        self.working: dict[str, subprocess.Popen[str]] = {}
        self.made, self.happened, self.said = 0, list[str](), list[str]()
        self.acknowledged: set[str] = set()
        for name in ("laptop", "other"):
            self.laptops[name] = self.side(name)
        self.sync = FaultySync({name: side.folder for name, side in self.laptops.items()}, seed)
        self.add_gpu()

    def side(self, name: str) -> Machine:
        side = self._machine(name, self.root / f"folder-{name}")
        side.environment.update(self.failing.environment)
        return side

    def add_gpu(self) -> str:
        self.made += 1
        name = f"gpu-{self.made}"
        self.gpus[name] = self.side(name)
        self.sync.join(name, self.gpus[name].folder)
        return name

    def start(self, name: str, arguments: list[str]) -> None:
        self.working[name] = self.gpus[name].start(*arguments)

    def works_until(self, name: str, arguments: list[str], true: Callable[[], object], what: str) -> None:
        """Have a worker at work when something is so; one that leaves before, say at a torn mark, is started again."""
        self.start(name, arguments)

        def is_so() -> bool:
            if self.working[name].poll() is None:
                return bool(true())
            self.ended(name, self.working.pop(name))
            self.start(name, arguments)
            return False

        until(is_so, what, 600)

    def ended(self, name: str, process: subprocess.Popen[str]) -> int:
        """Wait for a worker's end, which has to be a fine one."""
        _, said = process.communicate(timeout=240)
        self.note(f"{name} ended with {process.returncode}", said)
        assert process.returncode in ALLOWED_EXIT_CODES, said
        return process.returncode

    def kill(self, name: str) -> None:
        process = self.working.pop(name)
        process.kill()
        self.ended(name, process)

    def laptop(self, name: str, *arguments: str, killed: float | None = None) -> int:
        """A command on a laptop, or SIGKILL after some seconds of it."""
        with self.laptops[name].start(*arguments) as process:
            if killed is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(killed)
                process.kill()
            _, said = process.communicate(timeout=240)
        self.note(f"{name}: {' '.join(arguments)[:40]} -> {process.returncode}", said)
        assert process.returncode in ALLOWED_EXIT_CODES, said
        self.look()
        return process.returncode

    def note(self, what: str, said: str = "") -> None:
        error = next((line for line in said.splitlines() if line.startswith("error:")), "")
        self.happened.append(f"{what} {error}".strip())
        self.said += said.splitlines()

    def look(self) -> None:
        """What was acknowledged by now, it may be carried or not."""
        for side in self.laptops.values():
            for place in side.home.glob("received/*/runs/*/acks"):
                root = place.parents[2]
                notes = read_notes(Disk(root), place.parent.name, "ack", refused=[])
                self.acknowledged |= {f"{root}/{path}" for _, note in notes for path in note["received"]}

    def lost(self) -> list[str]:
        """Acknowledged shards that are not intact on that laptop's disk."""
        self.look()
        return [path for path in sorted(self.acknowledged) if not whole(Path(path))]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The sync runs inside the block; no process outlives it."""
        with ExitStack() as end:
            end.callback(self.stop)
            end.enter_context(self.sync.running())
            yield

    def stop(self) -> None:
        self.failing.heal()
        for process in self.working.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate(timeout=240)
        self.working.clear()

    def __str__(self) -> str:
        return "\n".join([*self.happened, f"the sync: {self.sync.counts}"])


def whole(path: Path) -> bool:
    try:
        verify_shard(str(path), path.read_bytes())
    except (OSError, HybridError):
        return False
    return True


def until(true: Callable[[], object], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def records(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("results/*/outputs.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())["records"]
    return found

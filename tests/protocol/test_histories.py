"""A whole run over a faulty sync, with real processes that are killed, stopped and refused, and machines that are lost.

Laptops and GPU machines have a folder each. At any time, acknowledged shards are on the laptop's disk, and no command
ends with the exit code of a wrong command; when the faults end, the outputs equal those of a run without faults.
HYBRID_TEST_SEEDS=20 runs more seeds. A run that trains is in training/test_kills.py.
"""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.failing_calls import failing_library
from tests.support.fleet import SEEDS, Fleet, records
from tests.support.real_machines import ITEMS, SCRIPT, Machine, Machines

__all__ = ["failing_library"]
pytestmark = pytest.mark.slow
STEPS = 20


class RandomEvents:
    """The possible events of a history; each is one step."""

    def __init__(self, fleet: Fleet, machines: Machines) -> None:
        self.fleet, self.machines, self.older = fleet, machines, dict[str, dict[str, bytes]]()

    def step(self) -> None:
        act = self.fleet.draw.choice(
            [
                *[self.work, self.work, self.kill, self.freeze, self.fetch, self.fetch_killed],
                *[self.cancel, self.fail, self.fill, self.remember, self.restore, self.lose],
            ]
        )
        act()
        time.sleep(self.fleet.draw.random() * 0.5)
        self.fleet.failing.heal()
        for name, process in list(self.fleet.working.items()):
            if process.poll() is not None:
                self.fleet.ended(name, self.fleet.working.pop(name))

    def work(self) -> None:
        """A worker, on a machine that may be new."""
        idle = [name for name in self.fleet.gpus if name not in self.fleet.working]
        if len(self.fleet.working) < 2:
            name = self.fleet.draw.choice(idle) if idle else self.fleet.add_gpu()
            self.fleet.note(f"{name} works")
            self.fleet.start(name, self.worker(name, "--linger=20s", "--max-idle=15s", delay_ms=60))

    def worker(self, name: str, *more: str, delay_ms: int = 0) -> list[str]:
        return self.fleet.gpus[name].worker(*more, "--beat=1", delay_ms=delay_ms, shard_seconds=0.3)

    def one(self) -> str:
        """A machine that works; one is set to work when there is none."""
        if not self.fleet.working:
            self.work()
            time.sleep(1.5)
        return self.fleet.draw.choice(list(self.fleet.working))

    def kill(self) -> None:
        self.fleet.kill(self.one())

    def freeze(self) -> None:
        name = self.one()
        self.fleet.note(f"{name} stands still")
        self.fleet.working[name].send_signal(signal.SIGSTOP)
        time.sleep(1)
        self.fleet.working[name].send_signal(signal.SIGCONT)

    def fetch(self) -> None:
        self.fleet.laptop(self.somebody(), "fetch", "seal-eval")

    def somebody(self) -> str:
        """A laptop that knows of the run."""
        other = self.fleet.laptops["other"].folder
        knows = any(path.stat().st_size for path in other.glob("runs/*/run.json"))
        return self.fleet.draw.choice(["laptop", "other"]) if knows else "laptop"

    def fetch_killed(self) -> None:
        self.fleet.laptop(self.somebody(), "fetch", "seal-eval", killed=0.3 + self.fleet.draw.random() * 0.5)

    def cancel(self) -> None:
        self.fleet.laptop("laptop", "cancel", "seal-eval")
        self.fleet.laptop("laptop", *submit(self.machines))

    def fail(self) -> None:
        """The next calls in the folder of a machine fail, until the next step."""
        side = self.fleet.draw.choice([*self.fleet.gpus.values(), *self.fleet.laptops.values()])
        error = self.fleet.draw.choice(["ENOENT", "EINVAL", "EIO", "ESTALE"])
        calls = self.fleet.draw.choice(["open", "open,list", "stat", "read", "fsync"])
        self.fleet.failing.fail(calls, f"{side.folder}/*", error, times=self.fleet.draw.choice([1, 1, 5]), every=2)
        self.fleet.note(f"{error} at {calls} in {side.name}")
        if side.name in self.fleet.laptops:
            self.fleet.laptop(side.name, "status")
        time.sleep(0.5)

    def fill(self) -> None:
        """The disk below a machine's folder or its own things is full for a while."""
        side = self.fleet.gpus[self.one()]
        place = self.fleet.draw.choice([side.folder, side.home])
        self.fleet.failing.fail("create,write,mkdir", f"{place}/*", "ENOSPC", times=-1)
        self.fleet.note(f"{place.name} is full")
        time.sleep(1)

    def remember(self) -> None:
        side = self.fleet.draw.choice(list(self.fleet.sync.sides))
        self.older[side] = self.fleet.sync.copy(side)

    def restore(self) -> None:
        known = [side for side in self.older if side in self.fleet.sync.sides]
        if known:
            side = self.fleet.draw.choice(known)
            self.fleet.note(f"the folder of {side} is an older one")
            self.fleet.sync.restore(side, self.older[side])

    def lose(self) -> None:
        """A machine is gone, with its folder and its own things."""
        name = self.one()
        self.fleet.kill(name)
        side = self.fleet.gpus.pop(name)
        self.fleet.sync.lose(name)
        shutil.rmtree(side.folder, ignore_errors=True)
        shutil.rmtree(side.home, ignore_errors=True)
        self.fleet.note(f"{name} is lost")
        self.fleet.add_gpu()


def submit(machines: Machines) -> list[str]:
    data = [f"--set={one}" for one in machines.data()]
    return ["run", "remote", "seal-eval", "--backend=scripted", f"--model={SCRIPT}", *data]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_many_work_on_comes_whole_through_a_carrier_that_lies(
    tmp_path: Path, failing_library: Path, seed: int
) -> None:
    machines = Machines(tmp_path, tmp_path / "folder-laptop")
    machines.script({"answers": dict.fromkeys(machines.prompts()[::3], "2"), "default": "1"})
    fleet = Fleet(tmp_path, failing_library, seed, lambda name, folder: Machine(tmp_path, name, folder))
    assert fleet.laptop("laptop", "init", str(machines.folder)) == 0
    assert fleet.laptop("laptop", *submit(machines)) == 0
    try:
        with fleet.at_work():
            events = RandomEvents(fleet, machines)
            for _ in range(STEPS):
                events.step()
        finish(fleet, events, machines)
    finally:
        print(fleet)
    expected = without_faults(machines)
    for side in fleet.laptops.values():
        assert records(side.folder) == expected
    assert not fleet.lost(), "acknowledged, and not whole any more"


def finish(fleet: Fleet, events: RandomEvents, machines: Machines) -> None:
    """The faults are over: what is there is carried, one worker does the rest, both laptops fetch."""
    fleet.sync.settle()
    assert fleet.laptop("laptop", *submit(machines)) == 0
    fleet.sync.settle()
    name = next(iter(fleet.gpus))
    fleet.start(name, events.worker(name))
    assert fleet.ended(name, fleet.working.pop(name)) == 0, "\n".join(fleet.said[-20:])
    fleet.sync.settle()
    assert [fleet.laptop(laptop, "fetch", "seal-eval") for laptop in fleet.laptops] == [0, 0]


def without_faults(machines: Machines) -> list[dict[str, Any]]:
    alone = Machine(machines.root, "alone", machines.root / "folder-alone")
    data = [f"--set={one}" for one in machines.data()]
    where = [f"--model={machines.root / 'script.json'}", f"--folder={alone.folder}"]
    done = alone.run("run", "local", "seal-eval", "--backend=scripted", *data, *where)
    assert done.returncode == 0, done.stderr
    found = records(alone.folder)
    assert len(found) == ITEMS
    return found

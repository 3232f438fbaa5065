"""Workers of one machine share claims through its own disk: each item is done once, whatever of that disk is lost."""

from __future__ import annotations

import random
import sqlite3
import subprocess
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hybrid.execution.assembly import assembled
from hybrid.execution.capabilities import Machine
from hybrid.execution.chain import bound
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, open_run, submit
from hybrid.folder.spec import ModelSpec
from hybrid.plugins.installed import load
from hybrid.protocols import Pipeline
from hybrid.settings import build, freeze
from hybrid.worker.siblings import Siblings
from hybrid.worker.worker import Worker, WorkerOptions
from tests.support.manual_clock import ManualClock
from tests.support.real_machines import ITEMS, SCRIPT, Machines


class Capabilities(Machine):
    """This machine, which knows the pipeline already: looking through all installed packages takes long."""

    found: Pipeline

    def pipeline(self, run: Run) -> Pipeline:
        assert run
        return self.found


@dataclass
class Process:
    """A worker in this process, stepped by hand."""

    worker: Worker
    steps: Generator[float, None, None]
    due: float = 0.0


@dataclass
class Host:
    """One machine with workers on a run of ITEMS items; `calls` has the items that their model was asked."""

    root: Path
    clock: ManualClock = field(default_factory=ManualClock)
    working: dict[str, Process] = field(default_factory=dict)
    killed: list[Process] = field(default_factory=list)
    started: int = 0
    timeouts: LeaseTimeouts = field(default_factory=LeaseTimeouts)

    def __post_init__(self) -> None:
        machines = Machines(self.root)
        self.folder = join_folder(machines.folder, make=True)
        self.pipeline = pipeline = build(load("pipelines", "seal-eval"), machines.data())
        models = {"": ModelSpec("scripted", SCRIPT, "")}
        self.run = submit(self.folder, "seal-eval", freeze(pipeline), pipeline.inputs(), models)

    def start(self) -> str:
        self.started += 1
        attempt, spool = f"20260101t000000z-{self.started:08x}", self.root / "spool"
        options = [f"calls={self.root / 'calls'}"]
        here = Capabilities([f"{SCRIPT}={self.root / 'script.json'}"], options, spool)
        here.found = self.pipeline
        gone = set[str]()
        siblings = Siblings(spool / "claims.sqlite", attempt, self.clock, self.ended, self.timeouts, gone)
        how = WorkerOptions(run=self.run.id, timeouts=self.timeouts, shard_seconds=30.0, max_idle=1e6)
        place = self.folder, Disk(spool), self.clock, here, how
        worker = Worker(*place, attempt=attempt, gone=gone, siblings=siblings)
        self.working[attempt] = Process(worker, worker.work(), self.clock.time)
        return attempt

    def ended(self, attempt: str) -> bool:
        """Whether the system has freed the lock of an attempt."""
        return attempt not in self.working

    def kill(self, attempt: str) -> None:
        """SIGKILL: nothing of it runs any more, no `finally` either."""
        self.killed.append(self.working.pop(attempt))

    def step(self, attempt: str, *, courier: bool = False) -> None:
        """Let a worker go on until it waits, or its courier do a round. One that has ended gives everything back."""
        process = self.working[attempt]
        if courier:
            process.worker.step()
            return
        wait = next(process.steps, None)
        if wait is not None:
            process.due = self.clock.time + wait
            return
        for _ in process.worker.leave(0.0):
            pass
        assert process.worker.siblings
        process.worker.siblings.close()
        del self.working[attempt]

    def finish(self) -> None:
        """Let all that run go on, one after the other, until they end."""
        for _ in range(3000):
            if not self.working:
                return
            ready = [name for name, process in self.working.items() if process.due <= self.clock.time]
            for name in ready:
                self.step(name, courier=True)
                self.step(name)
            if not ready:
                self.clock.time = min(process.due for process in self.working.values())
        raise AssertionError({name: process.worker.run_states for name, process in self.working.items()})

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().split() if path.exists() else []

    def check(self) -> None:
        """Every item has its answer."""
        chain = bound(open_run(self.folder, self.run.id), self.pipeline)
        with assembled(chain.run, chain.stages[-1]) as assembly:
            found = [one.text for one in assembly.outputs()]
        assert found == ["1"] * ITEMS


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_workers_of_one_machine_do_no_item_twice(host: Host, seed: int) -> None:
    """No heartbeat is read meanwhile, and no shard is closed before its worker has nothing left to do."""
    chance = random.Random(seed)
    for _ in range(2 + seed % 2):
        host.start()
    for _ in range(2000):
        if not host.working:
            break
        host.step(chance.choice(list(host.working)))
        host.clock.time += 0.01
    host.finish()
    assert len(host.calls) == len(set(host.calls)) == ITEMS
    host.check()


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_worker_costs_its_open_shard_and_no_more(host: Host, seed: int) -> None:
    chance, lost = random.Random(seed), 0
    host.start()
    while len(set(host.calls)) < ITEMS:
        event = chance.random()
        if len(host.working) < 2 or (event < 0.02 and len(host.working) < 4):
            host.start()
        elif event < 0.05 and host.started < 12:
            name = chance.choice(list(host.working))
            session = host.working[name].worker.session
            lost += session.writer.open_records + session.work.unanswered if session else 0
            host.kill(name)
        else:
            host.step(chance.choice(list(host.working)), courier=chance.random() < 0.2)
            host.clock.time += chance.random() * 2
    host.finish()
    assert len(set(host.calls)) == ITEMS
    assert len(host.calls) <= ITEMS + lost
    host.check()


def damage_nothing_of_it_reads(path: Path) -> None:
    path.write_bytes(b"nothing that SQLite knows" * 1000)


def delete(path: Path) -> None:
    for name in path.parent.glob("claims.sqlite*"):
        name.unlink()


def fill_with_nonsense(path: Path) -> None:
    rows = sqlite3.connect(path)
    rows.executescript(
        """
        INSERT OR REPLACE INTO attempts VALUES ('../../x', 1, 'x', NULL), (X'00FF', '', 0, 0), (7, 7, 7, 7);
        INSERT OR REPLACE INTO claims SELECT DISTINCT place, 'x', '../../x', NULL FROM claims;
        INSERT OR REPLACE INTO claims SELECT DISTINCT place, 99999999, 'nobody', NULL FROM claims;
        INSERT OR REPLACE INTO claims
            SELECT place, block, 'nobody', CASE block % 3 WHEN 0 THEN 'x' WHEN 1 THEN 1000000 END FROM claims;
        INSERT OR REPLACE INTO looks VALUES ('x', 7, 'x'), (7, X'00FF', -1);
        DELETE FROM returns;
        """
    )
    rows.close()


def other_tables(path: Path) -> None:
    rows = sqlite3.connect(path)
    rows.executescript("DROP TABLE claims; CREATE TABLE claims (something)")
    rows.close()


@pytest.mark.parametrize("damage", [damage_nothing_of_it_reads, delete, fill_with_nonsense, other_tables])
def test_damaged_claims_cost_work_and_nothing_else(host: Host, damage: object) -> None:
    assert callable(damage)
    first = host.start()
    for _ in range(10):
        host.step(first)
    damage(host.root / "spool" / "claims.sqlite")
    host.start()
    host.finish()
    host.check()
    assert len(host.calls) <= 2 * ITEMS


def test_a_stopped_worker_keeps_its_claims_for_a_while_only(host: Host) -> None:
    """It does not end, so its lock stays; the others wait for it as for a worker without heartbeats."""
    host.timeouts = LeaseTimeouts(4.0)
    stopped = host.start()
    for _ in range(6):
        host.step(stopped)
    zombie = host.working.pop(stopped)
    host.ended = lambda attempt: False  # type: ignore[method-assign]
    host.start()
    host.finish()
    assert host.clock.time >= host.timeouts.idle
    host.check()
    assert zombie.worker.session
    assert len(host.calls) == ITEMS + zombie.worker.session.writer.open_records + zombie.worker.session.work.unanswered


def test_a_block_is_claimed_by_one_and_free_when_the_records_were_read(tmp_path: Path) -> None:
    clock, dead = ManualClock(), set[str]()
    one, two = (Siblings(tmp_path / "claims", name, clock, dead.__contains__) for name in ("a-1", "b-2"))
    mine, others = one.of("stage"), two.of("stage")
    assert mine.take(3)
    assert mine.take(3)
    assert not others.take(3)
    assert others.others(60).blocks == {3}
    assert one.of("another stage").others(60).blocks == set()
    mine.release([3])
    assert others.others(60).blocks == {3}, "the record may not be read yet"
    with others.looking():
        pass
    assert others.others(60).blocks == set()
    one.works_on("stage")
    assert mine.take(4)
    assert others.others(60).attempts == {"a-1"}
    dead.add("a-1")
    clock.time += 2
    assert others.others(60).blocks == {4}
    with others.looking():
        pass
    assert others.others(60).blocks == set()
    assert others.take(4)
    one.close()
    two.close()
    with sqlite3.connect(tmp_path / "claims") as rows:
        left = "SELECT attempt FROM claims UNION SELECT attempt FROM attempts UNION SELECT attempt FROM looks"
        assert rows.execute(left).fetchall() == []
    rows.close()


def test_a_slow_worker_keeps_its_claims_where_heartbeats_are_short(tmp_path: Path) -> None:
    """They share claims through the disk at their own pace, and a busy system lets any process wait."""
    clock, timeouts = ManualClock(), LeaseTimeouts(1.0)
    slow, idle = (Siblings(tmp_path / "claims", name, clock, lambda _: False, timeouts) for name in ("a-1", "b-2"))
    slow.works_on("stage")
    assert slow.of("stage").take(3)
    claims = idle.of("stage")
    assert claims.others(timeouts.idle).blocks == {3}
    clock.time += 20.0
    assert claims.others(timeouts.idle) == claims.others(60.0)
    assert claims.others(timeouts.idle).attempts == {"a-1"}
    assert not claims.take(3)
    clock.time += 20.0
    assert claims.others(timeouts.idle).blocks == set()
    assert claims.take(3)
    for one in (slow, idle):
        one.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Siblings]]:
    names, dead = ("a-1", "b-2", "c-3"), {"a-1"}
    found = [Siblings(tmp_path / "claims", name, ManualClock(), dead.__contains__) for name in names]
    yield found
    for one in found:
        one.close()


def test_what_was_claimed_and_given_back_unseen_is_free_for_who_reads_the_records(three: list[Siblings]) -> None:
    """A worker that loads its model meanwhile has read the records before, and never sees the claim."""
    _, answers, loads = (one.of("stage") for one in three)
    with loads.looking():
        pass
    assert answers.take(3)
    answers.release([3])
    assert loads.others(60).blocks == {3}
    assert not loads.take(3)
    assert answers.take(3), "it knows what it has answered"
    answers.release([3])
    with loads.looking():
        pass
    assert loads.others(60).blocks == set()
    assert loads.take(3)
    assert not answers.take(3)


def test_what_is_given_back_while_the_records_are_read_is_not_free_yet(three: list[Siblings]) -> None:
    _, answers, reads = (one.of("stage") for one in three)
    assert answers.take(3)
    with reads.looking():
        answers.release([3])
    assert not reads.take(3)
    with reads.looking():
        pass
    assert reads.take(3)


def test_what_is_given_back_while_the_records_are_read_for_the_first_time_is_not_forgotten(
    three: list[Siblings],
) -> None:
    _, answers, reads = (one.of("stage") for one in three)
    with answers.looking():
        pass
    assert answers.take(3)
    with reads.looking():
        answers.release([3])
        with answers.looking():
            pass
    assert not reads.take(3)


def test_what_a_dead_worker_has_claimed_is_taken_by_one_alone(three: list[Siblings]) -> None:
    dead, one, other = (one.of("stage") for one in three)
    assert dead.take(3)
    assert not one.take(3), "its records may be there"
    for claims in (one, other):
        with claims.looking():
            pass
    assert [one.take(3), other.take(3)] == [True, False]


def test_returns_that_all_know_of_are_forgotten(three: list[Siblings]) -> None:
    mine, other = (one.of("stage") for one in three[1:])
    for claims in (mine, other):
        with claims.looking():
            pass
    for block in range(9):
        assert mine.take(block)
    mine.release(range(8))
    assert len(three[0].do("SELECT block FROM claims")) == 9
    for claims in (mine, other):
        with claims.looking():
            pass
    assert three[0].do("SELECT block FROM claims") == [(8,)]


def test_claims_that_are_in_use_are_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that start together: the one that cannot open them yet must not take them from the other."""
    path = tmp_path / "claims"
    monkeypatch.setattr("hybrid.worker.siblings.WAIT_S", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        first.executescript("CREATE TABLE made (by TEXT); BEGIN IMMEDIATE")
        late = Siblings(path, "b-2", ManualClock(), set[str]().__contains__)
        first.execute("COMMIT")
        first.execute("SELECT by FROM made")
        assert late.of("stage").take(1), "without them it only does too much"
        late.close()
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("SELECT by FROM made")


@pytest.mark.slow
def test_two_real_workers_on_one_machine_share_short_items(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    machines.submit()
    gpu = machines.side("gpu")
    workers: list[subprocess.Popen[str]] = [gpu.start(*gpu.worker(delay_ms=100)) for _ in range(2)]
    said = [process.communicate(timeout=240)[1] for process in workers]
    assert [process.returncode for process in workers] == [0, 0], said
    assert len(gpu.calls()) == len(set(gpu.calls())) == ITEMS
    assert machines.fetch().returncode == 0
    assert set(machines.texts()) == set(gpu.calls())

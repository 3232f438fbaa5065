"""A run in the simulated world: a laptop, rented machines and people, all of them running the production code.

Nothing in `hybrid` is patched. The simulation passes in the folder, the local disk, the clock, and capabilities whose
model answers at once and counts how often each item was requested.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Self

from hybrid.canonical import encode
from hybrid.errors import HybridError
from hybrid.execution.assembly import assembled
from hybrid.execution.chain import bound
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.notes import verify_note
from hybrid.folder.runs import MARK, Run, open_run, submit
from hybrid.folder.shards import Shard, verify_shard
from hybrid.folder.spec import ModelSpec
from hybrid.folder.spool import is_shard
from hybrid.laptop.receiver import Receiver
from hybrid.protocols import Backend, Inputs, Model, Pipeline, Stage
from hybrid.records import Completion, Failure, Item, Output, Request, Sampling
from hybrid.work import Ask
from hybrid.worker.worker import Worker, WorkerOptions
from tests.simulator import NONE, SETTLE, Actor, Faults, Killed, World
from tests.simulator.growing import Growing

READER = "reader-00000000"
ITEM_SECONDS = 20.0
IN_FLIGHT = 4
LEAST = 5.0
"""Seconds of a worker's wait: shorter ones are made as long."""
COURIER = 20.0
"""Seconds between two rounds of a courier."""


@dataclass(frozen=True)
class OneStage:
    """A pipeline of one stage."""

    items: int = 24

    def inputs(self) -> Inputs:
        return Inputs({f"t{n:02d}": n for n in range(self.items)}, {f"t{n:02d}/0": n for n in range(self.items)}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("answer", "gpu", 1, Ask(sums)),)


def sums(tasks: Mapping[str, Any]) -> Iterator[Item]:
    for task, number in sorted(tasks.items()):
        yield Item(task, f"{task}/0", Request(Sampling(max_tokens=1), prompt=f"{number} + {number}"))


@dataclass(frozen=True)
class TwoStages(OneStage):
    """A pipeline that asks again about each answer, or about its failure."""

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("ask", "gpu", 1, Ask(sums)), Stage("answer", "gpu", 1, Ask(again), after=("ask",)))


def again(tasks: Mapping[str, Any], earlier: Mapping[str, Iterable[Output]]) -> Iterator[Item]:
    for one in earlier["ask"]:
        request = Request(Sampling(max_tokens=1), prompt=one.text if one.text is not None else "it failed")
        yield Item(one.task, f"{one.question}@again", request)


def answer(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]


@lru_cache(maxsize=10_000)
def verified(path: str, data: bytes) -> Shard:
    """`verify_shard`, cached, since the properties are checked often. Raises BadData."""
    return verify_shard(path, data)


class SimulatedBackend:
    """Answers up to IN_FLIGHT requests at a time, in any order. An item that is to fail fails at its first request."""

    def __init__(self, simulation: Simulation, who: Machine, digest: str) -> None:
        self.model = Model("m", digest, 100, {})
        self._simulation, self._who = simulation, who

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        source, flight = iter(requests), list[Request]()
        while True:
            while len(flight) < IN_FLIGHT and (request := next(source, None)):
                flight.append(request)
                self._simulation.calls[request.key] += 1
                self._who.given += 1
            if not flight:
                return
            key = flight.pop(self._simulation.chance.randrange(len(flight))).key
            if int(key, 16) % 97 < self._simulation.failing and self._simulation.calls[key] == 1:
                yield Completion(key, error=Failure("engine", "broken"))
            else:
                yield Completion(key, text=answer(key), finish="stop")

    def close(self) -> None:
        pass


class SimulatedCapabilities:
    """The capabilities of a simulated machine."""

    def __init__(self, simulation: Simulation, who: Machine, digest: str) -> None:
        self._simulation, self._who, self._digest = simulation, who, digest

    def pipeline(self, run: Run) -> Pipeline:
        return self._simulation.pipeline

    def digest(self, run: Run, role: str) -> str:
        return self._digest

    def options(self, run: Run, role: str) -> Mapping[str, str]:
        return {}

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        return SimulatedBackend(self._simulation, self._who, self._digest)

    def gauges(self) -> Mapping[str, Any]:
        return {}


@dataclass
class Machine:
    """A rented machine: its worker while one runs, and the times at which its two threads continue."""

    actor: Actor
    lives: int = 0
    worker: Worker | None = None
    steps: Generator[float, None, None] | None = None
    leaving: bool = False
    due: float = 0.0
    courier_due: float = 0.0
    given: int = 0  # items given to the model of this process
    extra: int = 0  # most items that its deaths may have cost


@dataclass
class Simulation:
    """One history, determined by `seed` and `faults`; `check` verifies the properties after every step."""

    seed: int
    faults: Faults = NONE
    items: int = 24
    workers: int = 2
    failing: int = 0  # of 97 items so many fail when they are first asked
    lost_machines: float = 0.3  # share of the deaths that take the machine and its disk
    digests: tuple[str, ...] = ("1" * 64,)
    timeouts: LeaseTimeouts = field(default_factory=lambda: LeaseTimeouts(60.0))
    stays: bool = False  # whether workers wait for more when all is done
    chained: bool = False  # whether the stage whose items are counted comes after another
    searching: bool = False  # whether the items depend on answers
    model: ClassVar[tuple[str, str]] = "sim", "m"

    def __post_init__(self) -> None:
        self.world = World(self.seed, self.faults, spared=lambda path: "/" not in path or path.count("/") < 3)
        self.chance = random.Random(f"lab {self.seed}")
        self.calls: Counter[str] = Counter()
        self.laptop = self.world.actor("laptop")
        self.run_id = ""
        self.machines = {f"gpu{n}": Machine(self.world.actor(f"gpu{n}")) for n in range(self.workers)}
        self.kills = 0
        self._held: dict[str, set[str]] = {}
        self.keys: list[str] = []
        kind = Growing if self.searching else TwoStages if self.chained else OneStage
        self.pipeline: Any = kind(self.items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """End every process, so that calls made while Python collects its objects are refused."""
        for machine in self.machines.values():
            machine.actor.process.alive = False
            self._ended(machine)

    # ---- the laptop

    def submit(self) -> None:
        """Submit the run, trying again until it succeeds."""
        pipeline, digest = self.pipeline, self.digests[0] if len(self.digests) == 1 else ""
        for _ in range(1000):
            try:
                self.laptop.folder.write("hybrid.json", encode(MARK) + b"\n")
                self.run_id = submit(
                    self.laptop.folder,
                    "sums",
                    {"items": self.items},
                    pipeline.inputs(),
                    models={"": ModelSpec(*self.model, digest)},
                ).id
                break
            except HybridError:
                self.world.advance(60)
        self.keys = self.keys_with(self.digests[0])

    def keys_with(self, digest: str) -> list[str]:
        """The keys of the last stage's items when the model of that digest answers all."""
        if self.searching:
            return list(self.pipeline.keys(digest, answer))
        tasks, (first, *more) = self.pipeline.inputs().tasks, self.pipeline.stages()
        keys = {item.key(first.identity, digest): item for item in first.items(tasks)}
        for stage in more:
            said = [Output(key, item.task, item.question, {}, 0, answer(key), None, None) for key, item in keys.items()]
            keys = {item.key(stage.identity, digest): item for item in stage.items(tasks, {first.name: said})}
        return list(keys)

    def opened(self) -> Run:
        return open_run(self.laptop.folder, self.run_id, (self.laptop.disk,))

    def receive(self) -> int:
        """A fetch; returns how many shards were new. Raises what it raises."""
        names = [stage.name for stage in self.pipeline.stages()]
        return Receiver(self.opened(), self.laptop.disk, READER).receive(names).shards

    def order(self, kind: str) -> None:
        """Cancel, take the cancel back, or ask for failures again."""
        receiver = Receiver(self.opened(), self.laptop.disk, READER)
        if kind == "cancel":
            receiver.cancel()
        elif kind == "resume":
            receiver.resume()
        else:
            failed = {path for path in self.received() if any(one["error"] for one in self._shard(path).records)}
            receiver.retry(failed - receiver.orders().set_aside)

    def received(self) -> list[str]:
        """The shards on the laptop's disk."""
        return [path for path in self.laptop.files.held if is_shard(path)]

    def _shard(self, path: str) -> Any:
        return verified(path, self.laptop.files.held[path])

    def outputs(self) -> dict[str, str | None]:
        """Key -> text, from what the laptop has and sees."""
        chain = bound(self.opened(), self.pipeline)
        with assembled(chain.run, chain.stages[-1]) as assembly:
            found = [(one.key, one.text if one.error is None else None) for one in assembly.outputs()]
        assert len(found) == len(set(found)) == self.items, "P3: an item is not there exactly once"
        return dict(found)

    def asked(self) -> list[str]:
        """The keys of the first stage's items."""
        first = self.pipeline.stages()[0]
        return [item.key(first.identity, self.digests[0]) for item in sums(self.pipeline.inputs().tasks)]

    def prompts(self) -> set[str]:
        """What the last stage asks, as the laptop sees it."""
        chain = bound(self.opened(), self.pipeline)
        return {item.request.prompt for item in chain.stages[-1].items(chain.run.tasks())}

    def laptop_step(self) -> None:
        """The periodic fetch of a laptop; after a fault, or the death of the process, the next step tries again."""
        try:
            self.receive()
        except HybridError:
            pass
        except Killed:
            self.laptop.start()

    # ---- the rented machines

    def start(self, name: str) -> None:
        """A new worker process; on a new machine when the old one is gone."""
        machine = self.machines[name]
        if machine.actor.dead:
            machine.actor = self.world.actor(name)
        elif not machine.actor.process.alive or machine.lives:
            machine.actor.start()
        machine.lives += 1
        actor = machine.actor
        bench = self.capabilities(machine, self.digests[int(name[3:]) % len(self.digests)])
        attempt = f"{name}-{machine.lives:04d}"
        run, idle = ("", 1e6) if self.stays else (self.run_id, 3600.0)
        options = WorkerOptions(("gpu",), run=run, max_idle=idle, timeouts=self.timeouts, shard_seconds=60.0)
        machine.given, machine.leaving = 0, False
        try:
            machine.worker = Worker(actor.folder, actor.disk, actor.clock, bench, options, attempt=attempt)
            machine.steps = machine.worker.work()
        except (HybridError, Killed):
            self._ended(machine)
        else:
            machine.due = machine.courier_due = self.world.time

    def capabilities(self, machine: Machine, digest: str) -> SimulatedCapabilities:
        """What a worker on a machine can do."""
        return SimulatedCapabilities(self, machine, digest)

    def step(self, name: str) -> None:
        """Continue the thread of a machine that is due first."""
        machine = self.machines[name]
        if machine.worker is None or machine.steps is None:
            return
        worker = machine.worker
        try:
            if machine.courier_due <= machine.due and not machine.leaving:
                machine.courier_due = self.world.time + COURIER
                worker.step()
            else:
                self._go_on(machine)
        except Killed:
            self._died(machine)
        except HybridError:
            self._ended(machine)

    def _go_on(self, machine: Machine) -> None:
        assert machine.steps is not None
        assert machine.worker is not None
        wait = next(machine.steps, None)
        if wait is not None:
            machine.due = self.world.time + (max(wait, LEAST) if wait else ITEM_SECONDS / self.timeouts.beat * 60)
        elif machine.leaving:
            self._ended(machine)
        else:
            machine.leaving, machine.steps = True, machine.worker.leave()

    def _died(self, machine: Machine) -> None:
        """What a death may cost: what was given to the model and is in no shard; with the disk, the spool too."""
        worker, self.kills = machine.worker, self.kills + 1
        assert worker is not None
        session = worker.session
        lost = session.writer.open_records + session.work.unanswered if session else 0
        machine.extra += lost + IN_FLIGHT
        self._ended(machine)

    def _ended(self, machine: Machine) -> None:
        """End the worker; it is started again some time later, as when a person restarts the notebook cell."""
        with suppress(Killed, HybridError):  # a dead process runs nothing more: each call is refused
            if machine.steps is not None:
                machine.steps.close()
        machine.worker, machine.steps, machine.leaving = None, None, False
        machine.due = machine.courier_due = self.world.time + 120 + 1200 * self.chance.random()

    # ---- the history

    def live(self, seconds: float, *, kills: float = 0.0, freezes: float = 0.0) -> None:
        """Advance everything for `seconds`. `kills`, `freezes`: their probability in each step of a machine.

        A frozen machine stops for up to three hours and then continues as if no time had passed: a zombie.
        """
        until, fetch = self.world.time + seconds, self.world.time
        while self.world.time < until:
            name = min(self.machines, key=self._due)
            self._advance(min(self._due(name), fetch, until))
            if self.world.time >= fetch:
                self.laptop_step()
                fetch = self.world.time + 60 + 600 * self.chance.random()
                self.check()
            elif self.world.time >= self._due(name):
                self._act(name, kills, freezes)
                self.check_spools()

    def _due(self, name: str) -> float:
        machine = self.machines[name]
        return max(self.world.time, machine.due if machine.leaving else min(machine.due, machine.courier_due))

    def _advance(self, until: float) -> None:
        if until > self.world.time:
            self.world.advance(until - self.world.time)

    def _act(self, name: str, kills: float, freezes: float) -> None:
        machine = self.machines[name]
        if machine.actor.view.frozen:
            machine.actor.thaw()
        elif machine.worker is not None and self.chance.random() < freezes:
            machine.actor.freeze()
            machine.due = machine.courier_due = self.world.time + 60 + 10_800 * self.chance.random()
            return
        if machine.worker is None:
            self.start(name)
            return
        if self.chance.random() < kills:
            machine.actor.kill_after(self.chance.randrange(6), vm=self.chance.random() < self.lost_machines)
        self.step(name)

    def finish(self, hours: float = 12.0) -> None:
        """End all faults and wait until every item has arrived, for at most `hours`."""
        self.world.calm()
        for machine in self.machines.values():
            if machine.actor.view.frozen:
                machine.actor.thaw()
            machine.actor.process.left = None
        self.world.wait(SETTLE)
        self.submit()  # what went into the void behind a dead mount, or to another account, is said again
        until = self.world.time + 3600 * hours
        while self.world.time < until:
            self.live(1800)
            if len(self.good()) == self.items:
                break
        self.check()

    def unreceipted(self) -> list[str]:
        """The shards that some machine still keeps for want of a receipt. What a crash cut short was none."""
        held = [one for machine in self.machines.values() for one in machine.actor.files.held.items()]
        return [path for path, data in held if is_shard(path) and self._verifies(path, data)]

    def good(self) -> set[str]:
        """The items with an answer on the laptop's own disk."""
        shards = [self._shard(path) for path in self.received() if self._whole(path)]
        bound_to = self.bound()
        mine = [one for one in shards if one.header["model"]["digest"] == bound_to]
        good = {record["key"] for shard in mine for record in shard.records if record["text"] is not None}
        return good & set(self.keys_with(bound_to)) if self.chained or self.searching else good

    def bound(self) -> str:
        """The model that the run is bound to, as the laptop sees it."""
        try:
            return self.opened().model_digest(self.pipeline.stages()[0].name)
        except HybridError:
            return self.digests[0]

    def _whole(self, path: str) -> bool:
        try:
            return bool(self._shard(path))
        except HybridError:
            return False

    # ---- the properties

    def check(self) -> None:
        """P1 and P2: accepted shards verify and are correct, and acknowledged shards are on the laptop's disk."""
        for path in self.received():
            if self._whole(path):
                self.check_shard(path)
        for path, sha256 in self.acked().items():
            data = self.laptop.files.held.get(path)
            assert data is not None, f"P2: {path} was acknowledged and is not on the laptop"
            assert verified(path, data).sha256 == sha256, f"P2: {path} is not what was acknowledged"

    def check_shard(self, path: str) -> None:
        """The records of a shard that was accepted are right."""
        for record in self._shard(path).records:
            assert record["text"] in (None, answer(record["key"])), f"P1: {path} was accepted"

    def acked(self) -> dict[str, str]:
        """What the acks say, those in the cloud and those on the laptop."""
        tree = self.world.cloud.tree
        files = {**dict(tree.files()), **self.laptop.files.held}
        found: dict[str, str] = {}
        for path, data in files.items():
            if f"/acks/{READER}/" in path:
                try:
                    found.update(verify_note(path, data)["received"])
                except HybridError:
                    continue
        return found

    def check_spools(self) -> None:
        """P2, on the other side: what a machine freed is whole on the laptop's disk."""
        for name, machine in self.machines.items():
            held = {path for path in machine.actor.files.held if is_shard(path)}
            if not machine.actor.dead and machine.actor.process.alive:
                for path in self._held.get(name, set()) - held:
                    assert self._whole(path) if path in self.laptop.files.held else False, f"P2: {path} was freed"
            whole = {path for path in held if self._verifies(path, machine.actor.files.held[path])}
            self._held[name] = set() if machine.actor.dead else whole

    def _verifies(self, path: str, data: bytes) -> bool:
        try:
            return bool(verified(path, data))
        except HybridError:
            return False

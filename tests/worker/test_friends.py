"""Machines that begin a run of loops together, and hear of each other half a minute late: they divide the series."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.no_model import NAME, NoModel
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.loops import NotYet, Publications, Series
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Backend, Inputs, Stage
from hybrid.work import Rounds
from hybrid.worker.worker import Worker, WorkerOptions
from tests.support.manual_clock import ManualClock
from tests.support.two_sides import COURIER, CarriedFolder, Written

CARRIED = 20.0
ROUND_SECONDS = 5.0


@dataclass
class Friend:
    """A machine with a worker, and how often it has computed each round of each node."""

    names: list[str]
    rounds: int
    clock: ManualClock = field(default_factory=ManualClock)
    computed: Counter[tuple[str, int]] = field(default_factory=Counter)
    courier_at: float = 0.0

    def inputs(self) -> Inputs:
        return Inputs(dict.fromkeys(self.names, 0), {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("rounds", "gpu", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        return (Series(name, self.rounds) for name in tasks)

    def loop(self, series: Series, _: Any, __: Mapping[str, Any]) -> Node:
        return Node(series.name, self)

    def pipeline(self, run: Run) -> Friend:
        return self

    def digest(self, run: Run, role: str) -> str:
        return NoModel.digest_of(NAME)

    def options(self, run: Run, role: str) -> Mapping[str, str]:
        return {}

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        return NoModel(NAME, {"checkpoint": "60"})

    def gauges(self) -> Mapping[str, Any]:
        return {}

    def start(self, folder: CarriedFolder, store: Path, attempt: str) -> None:
        store.mkdir()
        how = WorkerOptions(("gpu", "any"), linger=0.0, max_idle=1e9)
        self.worker = Worker(folder, Disk(store), self.clock, self, how, attempt=attempt)
        self.steps = self.worker.work()

    def step(self) -> None:
        """Go on until the worker gives way."""
        self.wait(min(next(self.steps), COURIER))

    def wait(self, seconds: float) -> None:
        """Let time pass; the courier does its rounds meanwhile."""
        end = self.clock.time + seconds
        while self.clock.time < end:
            self.clock.time = min(end, self.clock.time + COURIER)
            if self.clock.time >= self.courier_at:
                self.worker.step()
                self.courier_at = self.clock.time + COURIER


class Node:
    """A `PublishingLoop` whose rounds wait for all nodes."""

    def __init__(self, name: str, friend: Friend) -> None:
        self.name, self.friend, self.heard, self.begun = name, friend, dict[int, set[str]](), -1

    def publish_to(self, publications: Publications) -> None:
        self.publications = publications

    def round(self, number: int) -> RoundMetrics:
        if self.begun != number:
            self.friend.wait(ROUND_SECONDS)
            self.begun = number
            self.friend.computed[self.name, number] += 1
            self.publications.publish(self.name, number, json.dumps([self.name, number]).encode())
        for one in self.publications.arrived(number, self.friend.names):
            name, of = json.loads(one.data)
            self.heard.setdefault(of, set()).add(name)
        if len(self.heard.get(number, ())) < len(self.friend.names):
            raise NotYet("others")
        return RoundMetrics(number, {"value": 1.0})

    def state(self) -> bytes:
        return b"{}"

    def load(self, state: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def met(place: Path, attempts: list[str], nodes: int, rounds: int) -> list[Friend]:
    """The friends, when all rounds of all nodes have been computed."""
    friends = [Friend([f"node-{number}" for number in range(nodes)], rounds) for _ in attempts]
    folder, written = place / "folder", Written()
    submit(
        join_folder(folder, make=True),
        "meeting",
        {},
        friends[0].inputs(),
        {"": ModelSpec(NAME, NAME, NoModel.digest_of(NAME))},
    )
    for number, (friend, attempt) in enumerate(zip(friends, attempts, strict=True)):
        friend.clock.time += 2.0 * number
        friend.start(CarriedFolder(Disk(folder), friend.clock, written, CARRIED), place / str(number), attempt)
    while len(set[object]().union(*(one.computed for one in friends))) < nodes * rounds:
        min(friends, key=lambda one: one.clock.time).step()
    return friends


@pytest.mark.parametrize(
    ("attempts", "nodes", "twice"),
    [(["aaaa-1", "bbbb-2"], 4, 2), (["7ed4d57b-2", "d8f16adf-0", "1027c4d1-1"], 6, 4), (["aaaa-1"], 4, 0)],
)
def test_friends_who_begin_together_compute_hardly_a_round_twice(
    tmp_path: Path, attempts: list[str], nodes: int, twice: int
) -> None:
    friends = met(tmp_path, attempts, nodes, 5)
    counts = sum((one.computed for one in friends), Counter[tuple[str, int]]())
    assert sum(counts.values()) - len(counts) <= twice, counts
    assert all(one.computed for one in friends), "one had nothing to do"

"""Nodes that meet in the simulated folder: each publishes, or shares, its number in every round, and takes the mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.backends.no_model import NAME, NoModel
from hybrid.errors import BadData, HybridError
from hybrid.execution.assembly import assembled
from hybrid.execution.chain import bound
from hybrid.folder.runs import Run
from hybrid.folder.segments import is_segment, verify_segment
from hybrid.loops import Exchange, Lab, NotYet, Publications, Series
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Backend, Inputs, Stage
from hybrid.work import Rounds
from tests.simulator.simulation import Machine, SimulatedCapabilities, Simulation

NODES = 3
ROUND_SECONDS = 60.0
DIGEST = NoModel.digest_of(NAME)


@dataclass
class Node:
    """The value of a node. `got` are the ids that have arrived at this object: none of them twice."""

    name: str
    names: list[str]
    value: float
    now: Callable[[], float]

    def __post_init__(self) -> None:
        self.got: set[str] = set()
        self.heard: dict[int, dict[str, tuple[str, float]]] = {}

    def round(self, number: int) -> RoundMetrics:
        """Waits for all nodes. Its notes name what was used."""
        self.meet(number)
        found = self.heard.get(number, {})
        if len(found) < len(self.names):
            raise NotYet(f"{len(found)} of {len(self.names)} in round {number}")
        self.value = sum(value for _, value in found.values()) / len(found)
        return RoundMetrics(number, {"value": self.value}, notes={"used": [id for id, _ in found.values()]})

    def meet(self, number: int) -> None:
        raise NotImplementedError

    def hear(self, name: str, data: bytes, id: str) -> None:
        """Of several versions of a round the first counts."""
        said = json.loads(data)
        self.heard.setdefault(int(said["round"]), {}).setdefault(name, (id, float(said["value"])))

    def said(self, number: int) -> bytes:
        return json.dumps({"by": self.name, "round": number, "value": self.value}).encode()

    def state(self) -> bytes:
        return json.dumps(self.value).encode()

    def load(self, state: bytes) -> None:
        try:
            self.value = float(json.loads(state))
        except (TypeError, ValueError) as error:
            raise BadData("no value") from error

    def close(self) -> None:
        pass


class Publishing(Node):
    """A `PublishingLoop`. A round takes ROUND_SECONDS."""

    begun = -1, 0.0

    def publish_to(self, publications: Publications) -> None:
        self.publications = publications

    def meet(self, number: int) -> None:
        self.publications.publish(self.name, number, self.said(number))
        found = self.publications.arrived(number, self.names)
        order = [(one.number, one.name, one.id) for one in found]
        assert order == sorted(order), "the order depends on when they came"
        for one in found:
            assert one.id not in self.got, f"{one.name} {one.number} arrived twice"
            assert one.number >= number, f"{one.name} {one.number} is older than what was asked for"
            self.got.add(one.id)
            self.hear(one.name, one.data, one.id)
        if self.begun[0] != number:
            self.begun = number, self.now()
        if self.now() < self.begun[1] + ROUND_SECONDS:
            raise NotYet("it computes")


class Sharing(Node):
    """A `SharingLoop`."""

    def connect(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def meet(self, number: int) -> None:
        self.exchange.share(self.name, number, self.said(number))
        for name in self.names:
            if found := self.exchange.newest(name):
                said = json.loads(found[1])
                for reached in range(number, int(said["round"]) + 1):  # who is ahead has said all before
                    self.heard.setdefault(reached, {}).setdefault(name, (name, float(said["value"])))


@dataclass(frozen=True)
class Meeting:
    """A stage of nodes that meet in every round."""

    rounds: int
    kind: type[Node]
    now: Callable[[], float]

    def inputs(self) -> Inputs:
        return Inputs({f"node-{number}": number for number in range(NODES)}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("rounds", "gpu", 1, Rounds(self.series, self.loop)),)

    def series(self, tasks: Mapping[str, Any]) -> Iterator[Series]:
        return (Series(name, self.rounds) for name in tasks)

    def loop(self, series: Series, lab: Lab, tasks: Mapping[str, Any]) -> Node:
        return self.kind(series.name, list(tasks), float(tasks[series.name]), self.now)


class MeetingCapabilities(SimulatedCapabilities):
    """The capabilities of a machine on which loops run."""

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        return NoModel(NAME, {"checkpoint": "60"})


class MeetingSimulation(Simulation):
    """A history of nodes that meet."""

    model = NAME, NAME

    def __post_init__(self) -> None:
        super().__post_init__()
        self.digests = (DIGEST,)

    def meet(self, kind: type[Node]) -> None:
        """Submit the run."""
        self.pipeline = Meeting(self.items // NODES, kind, lambda: self.world.time)
        self.submit()

    def capabilities(self, machine: Machine, digest: str) -> SimulatedCapabilities:
        return MeetingCapabilities(self, machine, digest)

    def check_shard(self, path: str) -> None:
        for record in self._shard(path).records:
            assert record["error"] is None
            RoundMetrics.from_text(record["text"])

    def good(self) -> set[str]:
        """The rounds with a record of the trajectory that counts, on the laptop."""
        try:
            return {key for key, text in self.outputs().items() if text is not None}
        except HybridError:
            return set()

    def check_end(self) -> None:
        """Every round of every node, each of which used one number of every node."""
        chain = bound(self.opened(), self.pipeline)
        with assembled(chain.run, chain.stages[-1]) as assembly:
            found = {(one.task, one.question): RoundMetrics.from_text(str(one.text)) for one in assembly.outputs()}
        assert len(found) == self.items
        for text in found.values():
            ids = text.notes["used"]
            assert isinstance(ids, list)
            assert len(ids) == len(set(map(str, ids))) == NODES

    def published(self) -> set[str]:
        """The ids of the segments in the cloud."""
        found = set()
        for path, data in self.world.cloud.tree.files():
            if is_segment(path):
                try:
                    found.add(verify_segment(path, data).id)
                except HybridError:
                    continue
        return found

"""The rounds of a run as columns of numbers, by arm, seed and node: what the grader, the report and the files read.

Both exchanges give the same table. In memory a series is a swarm and its record has a group for each node; over the
folder a series is one node. Texts are read one by one, and nothing but numbers is kept: 8 bytes a value.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from hybrid.metrics import RoundMetrics, costs_of
from hybrid.records import Output
from pipelines.sapo.arms import Arm, arm_of

SERIES = re.compile(r"(?P<arm>[a-z0-9-]{3,60})/seed-(?P<seed>\d{1,15})(?:/node-(?P<node>\d{1,4}))?")
"""The name of a series, which is the task of its records."""
NODE = re.compile(r"node-(\d{1,4})")
"""The name of a node's group."""
MOST_NODES = 256
METRICS = frozenset(
    (
        "reward_train", "reward_own", "eval_pass1", "n_own", "n_ext", "ext_wanted", "ext_pool", "ext_of_one",
        "ext_age_max", "ext_age_mean", "dead", "tagged", "ended", "tokens_generated", "tokens_trained", "loss",
        "gradient_norm", "refused", "skipped", "no_room", "left_out",
    )
)  # fmt: skip
"""Metrics of a node's round that are kept, beside those by task."""
COSTS = frozenset(("generate_seconds", "wait_seconds", "train_seconds", "peak_bytes"))
"""What a round took; it differs from run to run."""
REWARD, EVAL = "reward/", "eval/"
"""What metrics by task begin with."""
MOST_TASKS = 40

Span = range
"""Rounds that a figure is of."""


class NodeRounds:
    """The rounds of one node: `rounds`, ascending, and a column of numbers for each metric, NaN where there is none."""

    __slots__ = ("_columns", "rounds")

    def __init__(self) -> None:
        self.rounds = array("q")
        self._columns: dict[str, array[float]] = {}

    def add(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add a round; the names that are not known are passed over."""
        for name, value in metrics.items():
            column = self._columns.get(name)
            if column is None:
                if not self._wanted(name):
                    continue
                column = self._columns[name] = array("d", [math.nan]) * len(self.rounds)
            column.append(value)
        self.rounds.append(number)
        for column in self._columns.values():
            if len(column) < len(self.rounds):
                column.append(math.nan)

    def _wanted(self, name: str) -> bool:
        if name in METRICS or name in COSTS:
            return True
        kind = next((one for one in (REWARD, EVAL) if name.startswith(one)), "")
        return bool(kind) and sum(one.startswith(kind) for one in self._columns) < MOST_TASKS

    def ordered(self) -> None:
        """Put the rounds in order; of a round that stands twice the first one stays."""
        if all(before < after for before, after in pairwise(self.rounds)):
            return
        places: dict[int, int] = {}
        for place, number in enumerate(self.rounds):
            places.setdefault(number, place)
        order = [places[number] for number in sorted(places)]
        self.rounds = array("q", (self.rounds[place] for place in order))
        self._columns = {name: array("d", (column[place] for place in order)) for name, column in self._columns.items()}

    @property
    def names(self) -> set[str]:
        """The metrics that a round has."""
        return set(self._columns)

    def curve(self, name: str, span: Span | None = None) -> Iterator[tuple[int, float]]:
        """Yield (round, value) of a metric, of the rounds in `span`."""
        for number, value in zip(self.rounds, self._columns.get(name, ()), strict=False):
            if value == value and (span is None or number in span):  # noqa: PLR0124  # NaN is not itself
                yield number, value

    def values(self, name: str, span: Span | None = None) -> list[float]:
        """The values of a metric in the rounds of `span`."""
        return [value for _, value in self.curve(name, span)]

    def mean(self, name: str, span: Span | None = None) -> float | None:
        """The mean of a metric over the rounds that have it; None where none has."""
        values = self.values(name, span)
        return fmean(values) if values else None

    def row(self, place: int) -> dict[str, float]:
        """The metrics of the round at a place in `rounds`."""
        return {name: column[place] for name, column in self._columns.items() if not math.isnan(column[place])}

    def place(self, number: int, after: int = 0) -> int | None:
        """The place of a round, looked for from `after`; None when it is not there. Ascending calls are cheap."""
        while after < len(self.rounds) and self.rounds[after] < number:
            after += 1
        return after if after < len(self.rounds) and self.rounds[after] == number else None


@dataclass(slots=True)
class Swarm:
    """The rounds of an arm with a seed: `nodes` by number.

    `records` are the rounds that each series should have, by its name; `failure` is why the first one of those that
    have none has none. `together` are costs of all nodes, by round.
    """

    arm: Arm
    seed: int
    nodes: dict[int, NodeRounds] = field(default_factory=dict)
    together: NodeRounds = field(default_factory=NodeRounds)
    records: dict[str, int] = field(default_factory=dict)
    lacking: int = 0
    failure: str = ""

    @property
    def name(self) -> str:
        """Arm and seed."""
        return f"{self.arm.name}/seed-{self.seed}"

    @property
    def rounds(self) -> int:
        """Rounds that there should be."""
        return max(self.records.values(), default=0)

    @property
    def done(self) -> int:
        """Rounds up to the newest one that a node has."""
        return max((one.rounds[-1] + 1 for one in self.nodes.values() if one.rounds), default=0)

    @property
    def whole(self) -> bool:
        """Whether every record is there."""
        return bool(self.nodes) and not self.lacking

    def by_node(self, name: str, span: Span | None = None) -> dict[int, float]:
        """Node -> the mean of a metric over its rounds in `span`; without those that have none."""
        found = {node: one.mean(name, span) for node, one in self.nodes.items()}
        return {node: value for node, value in found.items() if value is not None}

    def sums(self, name: str, span: Span | None = None) -> dict[int, float]:
        """Node -> the sum of a metric over its rounds in `span`; without those that have none."""
        found = {node: one.values(name, span) for node, one in self.nodes.items()}
        return {node: math.fsum(values) for node, values in found.items() if values}

    def mean(self, name: str, span: Span | None = None) -> float | None:
        """The mean over nodes of a metric; None where none has it."""
        found = self.by_node(name, span)
        return fmean(found.values()) if found else None

    def curve(self, name: str) -> dict[int, float]:
        """Round -> the mean of a metric over the nodes that have it then."""
        sums: dict[int, list[float]] = {}
        for node in self.nodes.values():
            for number, value in node.curve(name):
                found = sums.setdefault(number, [0.0, 0.0])
                found[0] += value
                found[1] += 1
        return {number: total / count for number, (total, count) in sorted(sums.items())}

    def tasks(self, kind: str = REWARD) -> list[str]:
        """The tasks that have a metric of their own."""
        return sorted({name.removeprefix(kind) for one in self.nodes.values() for name in one.names if kind in name})

    def add(self, output: Output, node: int | None) -> None:
        """Take in one record, of a node or of all."""
        self.records[output.task] = self.records.get(output.task, 0) + 1
        try:
            found = RoundMetrics.from_text(output.text or "")
        except ValueError as error:
            self.lacking += 1
            self.failure = self.failure or (output.error.message if output.error else str(error))
            return
        costs = costs_of(output.trained)
        for name, metrics in found.groups.items():
            known = NODE.fullmatch(name)
            if known and (node is None or int(known[1]) == node) and int(known[1]) < MOST_NODES:
                own = self.nodes.setdefault(int(known[1]), NodeRounds())
                own.add(found.round, {**metrics, **costs.get(name, {})})
        if "" in costs:
            self.together.add(found.round, costs[""])


def read_swarms(outputs: Iterable[Output]) -> list[Swarm]:
    """The swarms of a run in their order; records of other tasks are passed over."""
    found: dict[tuple[str, int], Swarm] = {}
    for output in outputs:
        named = SERIES.fullmatch(output.task)
        if named is None:
            continue
        key = named["arm"], int(named["seed"])
        if key not in found:
            try:
                found[key] = Swarm(arm_of(key[0]), key[1])
            except ValueError:
                continue
        found[key].add(output, int(named["node"]) if named["node"] else None)
    for swarm in found.values():
        swarm.nodes = dict(sorted(swarm.nodes.items()))
        for one in (*swarm.nodes.values(), swarm.together):
            one.ordered()
    return in_order(found.values())


def in_order(swarms: Iterable[Swarm]) -> list[Swarm]:
    """Arms that do not share first, then by how much they share, their controls last; by seed."""
    return sorted(swarms, key=lambda one: (*_rank(one.arm), one.seed))


def arms_of(swarms: Sequence[Swarm]) -> list[str]:
    """The arms, each once, in the order of their swarms."""
    return list(dict.fromkeys(one.arm.name for one in swarms))


def _rank(arm: Arm) -> tuple[int, int, str]:
    """Arms that do not share first, then by how much they share; controls after the arms."""
    return (1 if arm.control else 0, arm.foreign, arm.name)

"""The rounds of a run, series by series, as the grader, the report and the exported files read them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from hybrid.canonical import encode
from hybrid.metrics import RoundMetrics, costs_of
from hybrid.records import Output
from pipelines.atlas.methods import ALL

NAME = re.compile(r"(?P<method>[a-z][a-z0-9-]{0,39})/seed-(?P<seed>\d{1,15})")
"""The name of a series, which is the task of its records. A client that trains elsewhere has one more part."""
CLIENT, TASK, LAYER = "client-", "task-", "layer-"
"""What the names of groups begin with."""
LEARNED = ("accuracy", "loss", "train_loss", "f1", "mcc", "dev_accuracy", "dev_loss")
"""Metrics that show what was learned: two series in which all of them are equal to the bit learned the same."""

Metrics = Mapping[str, float]


@dataclass(slots=True)
class SeriesResult:
    """The rounds of a method with a seed.

    `rounds` are the metrics of the whole round by its number; `clients`, `tasks` and `layers` are those of the groups
    in the last round, by name. `records` counts the rounds that there should be, `failure` is why the first one of the
    missing has none. `learned` are digests of what was learned in each round.
    """

    name: str
    method: str
    seed: int
    records: int = 0
    failure: str = ""
    rounds: dict[int, Metrics] = field(default_factory=dict)
    clients: Mapping[str, Metrics] = field(default_factory=dict)
    tasks: Mapping[str, Metrics] = field(default_factory=dict)
    layers: Mapping[str, Metrics] = field(default_factory=dict)
    learned: dict[int, bytes] = field(default_factory=dict)
    costs: dict[int, Metrics] = field(default_factory=dict)
    """Seconds and bytes that a round took where it was computed, by its number; those that say so."""
    steps: float = 0.0
    """Optimizer steps of all clients in all rounds."""
    moved: float | None = None
    """The least that training changed a client's update in a round; None where no client says."""
    unmoved: list[tuple[int, str]] = field(default_factory=list)
    """Rounds and clients that took steps and did not change, or whose change is not a finite number."""
    left_out: int = 0
    """Updates that the server left out: they were not finite, or late."""

    @property
    def whole(self) -> bool:
        """Whether every round has its metrics."""
        return bool(self.rounds) and sorted(self.rounds) == list(range(self.records))

    @property
    def last(self) -> Metrics:
        """The metrics of the last round that there is; empty without any."""
        return self.rounds[max(self.rounds)] if self.rounds else {}

    @property
    def structure_p(self) -> float | None:
        """The p value of the test whether fingerprints have clusters at all; None where nobody tested."""
        return next(iter(self.curve("structure_p").values()), None)

    def mean(self, name: str, task: str = "") -> float | None:
        """The mean of a metric over the clients (of a task) in the last round; None where none has it."""
        if task:
            return self.tasks.get(task, {}).get(name)
        values = [one[name] for one in self.clients.values() if name in one]
        return fmean(values) if values else None

    def spent(self) -> dict[int, float]:
        """Bytes that were sent and fetched up to the end of each round; empty where a round does not say."""
        total, found = 0.0, {}
        for number in sorted(self.rounds):
            known = [self.rounds[number].get(name) for name in ("upload_bytes", "download_bytes")]
            sent = [one for one in known if one is not None]
            if not sent:
                return {}
            total += sum(sent)
            found[number] = total
        return found

    def curve(self, name: str) -> dict[int, float]:
        """Round -> a metric of the whole round."""
        return {number: metrics[name] for number, metrics in sorted(self.rounds.items()) if name in metrics}

    def cost(self, name: str) -> list[float] | None:
        """A cost of every round; None where a round does not say."""
        known = [self.costs[number][name] for number in sorted(self.rounds) if name in self.costs.get(number, {})]
        return known if known and len(known) == len(self.rounds) else None

    def add(self, output: Output) -> None:
        """Take in one record."""
        self.records += 1
        try:
            found = RoundMetrics.from_text(output.text or "")
        except ValueError as error:
            self.failure = self.failure or (output.error.message if output.error else str(error))
            return
        self.rounds[found.round] = found.metrics
        self.learned[found.round] = _digest(found)
        if costs := costs_of(output.trained).get(""):
            self.costs[found.round] = costs
        self._count(found)
        if found.round == max(self.rounds):
            self.clients, self.tasks, self.layers = (_groups(found, kind) for kind in (CLIENT, TASK, LAYER))

    def _count(self, found: RoundMetrics) -> None:
        """Add a round to what shows that clients were trained."""
        left_out, still = int(found.metrics.get("left_out", 0)), []
        for name, metrics in _groups(found, CLIENT).items():
            self.steps += metrics.get("steps", 0)
            moved = metrics.get("moved")
            if moved is not None:
                self.moved = moved if self.moved is None else min(moved, self.moved)
            if (moved is None and metrics.get("steps", 0) > 0) or (moved is not None and moved <= 0):
                still.append((found.round, name))
        self.left_out += left_out
        if len(still) > left_out:  # what was refused did not change anything either
            self.unmoved += still


def read_series(outputs: Iterable[Output]) -> list[SeriesResult]:
    """The series of a run, method by method in their usual order; records of other tasks are passed over."""
    found: dict[str, SeriesResult] = {}
    for output in outputs:
        named = NAME.fullmatch(output.task)
        if named is None:
            continue
        if output.task not in found:
            found[output.task] = SeriesResult(output.task, named["method"], int(named["seed"]))
        found[output.task].add(output)
    order: dict[str, int] = {name: place for place, name in enumerate(ALL)}
    return sorted(found.values(), key=lambda one: (order.get(one.method, len(order)), one.method, one.seed))


def methods_of(series: Sequence[SeriesResult]) -> list[str]:
    """The methods, each once, in the order of their series."""
    return list(dict.fromkeys(one.method for one in series))


def _groups(found: RoundMetrics, kind: str) -> dict[str, Metrics]:
    """The groups of a kind in order of name; of tasks and layers without the beginning of their names."""
    cut = 0 if kind == CLIENT else len(kind)
    return {name[cut:]: metrics for name, metrics in sorted(found.groups.items()) if name.startswith(kind)}


def _digest(found: RoundMetrics) -> bytes:
    """A digest of what was learned in a round, by the whole and by every client."""
    groups = {"": found.metrics, **_groups(found, CLIENT)}
    learned = {group: {name: one[name] for name in LEARNED if name in one} for group, one in groups.items()}
    return hashlib.sha256(encode(learned)).digest()

"""What methods are worth: figures over seeds with intervals, and differences to the controls, paired by seed.

A seed counts once: its clients share models and dev rows, so they are no further independent values. An interval is
that of Student's t over seeds, whose values are means over clients; with one seed there is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hybrid.metrics import Interval
from hybrid.statistics.intervals import PairedDifference, paired_difference, student_quantile
from hybrid.statistics.paired import ROUNDING, PairedComparison, compared
from pipelines.atlas.guards import Finding, findings, void
from pipelines.atlas.results import SeriesResult, methods_of

CONTROLS = "local", "fedavg-lora"
"""Methods that others are compared with."""
MEGABYTE = 1_000_000

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a series. `exact`: its value follows from the settings, so that equal seeds leave nothing unknown."""

    name: str
    of: Callable[[SeriesResult], float | None]
    better: Better = "higher"
    range: Interval = (0.0, 1.0)
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """The mean of a figure over `n` seeds, and its 95 % interval, None where it is not known."""

    mean: float
    interval: Interval | None
    n: int


ACCURACY = Figure("accuracy", lambda one: one.mean("dev_accuracy"))
MAJORITY = Figure("most frequent label", lambda one: one.mean("dev_majority"), exact=True)
F1 = Figure("F1", lambda one: one.mean("dev_f1"))
MAJORITY_F1 = Figure("F1 of the most frequent label", lambda one: one.mean("dev_majority_f1"), exact=True)
MCC = Figure("MCC", lambda one: one.mean("dev_mcc"), range=(-1.0, 1.0))
WORST = Figure("worst client, own rows", lambda one: one.last.get("accuracy_worst"))
TENTH = Figure("10th percentile of clients, own rows", lambda one: one.last.get("accuracy_p10"))


def _traffic(one: SeriesResult) -> float | None:
    spent = one.spent()
    return max(spent.values()) / MEGABYTE if spent else None


TRAFFIC = Figure("MB sent and fetched", _traffic, "lower", (0.0, math.inf))
"""What is sent follows from ranks and from who takes part, which may follow from what was learned and drawn."""


class Comparison:
    """The methods of a run, side by side.

    `same_as` names for a method another one that it is the same as at these settings, `metrics` the metric that each
    task is judged by. `target` is the accuracy, on clients' own held-out rows, up to which bytes and rounds are
    counted; 0 stands for what the control ends with in each of its seeds.
    """

    def __init__(
        self,
        series: Sequence[SeriesResult],
        same_as: Mapping[str, str] | None = None,
        metrics: Mapping[str, str] | None = None,
        target: float = 0.0,
    ) -> None:
        self.series, self.metrics = series, dict(metrics or {})
        self.findings: list[Finding] = findings(series, same_as or {})
        self.void = void(self.findings)
        self.methods = methods_of(series)
        self.target = target or self._reached()

    def sound(self, method: str) -> list[SeriesResult]:
        """The series of a method that may be compared: whole, and without a fault."""
        return [one for one in self.series if one.method == method and one.name not in self.void]

    def summary(self, method: str, figure: Figure) -> Summary | None:
        """A figure of a method over its seeds; None where a seed has no value."""
        values = [figure.of(one) for one in self.sound(method)]
        known = [one for one in values if one is not None]
        return over_seeds(known, figure) if known and len(known) == len(values) else None

    def paired(self, method: str, control: str, figure: Figure = ACCURACY) -> PairedComparison | None:
        """The difference to a control, by the seeds that both have; None for the control itself, or without a pair."""
        own, others = ({one.seed: figure.of(one) for one in self.sound(name)} for name in (method, control))
        pairs = [
            (base, value) for seed, value in own.items() if value is not None and (base := others.get(seed)) is not None
        ]
        return compared(pairs) if pairs and method != control else None

    def paired_by_client(self, method: str, control: str) -> PairedDifference | None:
        """The difference to a control in accuracy on clients' own held-out rows, of each client and seed.

        Its interval is that of Student's t over seeds (cluster-robust); with one seed over its clients, and then says
        nothing of other seeds.
        """
        own, others = ({one.seed: one.clients for one in self.sound(name)} for name in (method, control))
        seeds = sorted(own.keys() & others.keys())
        pairs = [
            (str(seed) if len(seeds) > 1 else name, others[seed][name]["accuracy"], metrics["accuracy"])
            for seed in seeds
            for name, metrics in own[seed].items()
            if "accuracy" in metrics and "accuracy" in others[seed].get(name, {})
        ]
        return paired_difference(pairs) if len(pairs) > 1 and method != control else None

    def mcc_asked(self) -> bool:
        """Whether a task is judged by MCC."""
        return "mcc" in self.metrics.values()

    def figures(self) -> list[Figure]:
        """The figures that are compared, in the order in which they are shown."""
        by_task = list(self.by_task().values())
        mcc = [MCC] if self.mcc_asked() and len(self.metrics) < 2 else []
        return [F1, *mcc, *by_task, WORST, TENTH, TRAFFIC, *self.until()]

    def by_task(self) -> dict[str, Figure]:
        """Of several tasks, the metric that each is judged by."""
        return {task: self._of_task(task) for task in self._tasks()}

    def majority_of(self, task: str) -> Figure | None:
        """What the answer that is always the same has in a task's own metric; of MCC that is 0, and no figure."""
        metric = {"accuracy": "dev_majority", "f1": "dev_majority_f1"}.get(self.metrics.get(task, "accuracy"))
        return Figure(f"most frequent label, {task}", lambda one: one.mean(metric, task)) if metric else None

    def _tasks(self) -> list[str]:
        found = sorted({task for one in self.series for task in one.tasks})
        return found if len(found) > 1 else []

    def _of_task(self, task: str) -> Figure:
        """A task's own metric, of several tasks."""
        metric = self.metrics.get(task, "accuracy")
        shown = {"mcc": "MCC", "f1": "F1"}.get(metric, metric)
        low = -1.0 if metric == "mcc" else 0.0
        return Figure(f"{shown} of {task}", lambda one: one.mean(f"dev_{metric}", task), range=(low, 1.0))

    def until(self) -> list[Figure]:
        """What a series spends until it reaches the target: rounds, traffic and, where a run has a clock, its time."""
        if not self.target:
            return []
        said, everything = f"until accuracy {self.target:.3f} on own rows", (0.0, math.inf)
        figures = [
            Figure(f"MB {said}", self._megabytes, "lower", everything),
            Figure(f"rounds {said}", self._rounds, "lower", everything),
        ]
        if any("virtual_seconds" in one.last for one in self.series):
            figures.append(Figure(f"virtual seconds {said}", self._seconds, "lower", everything))
        return figures

    def _first(self, one: SeriesResult) -> int | None:
        """The round in which a series reaches the target, from 0."""
        return next((number for number, value in one.curve("accuracy").items() if value >= self.target), None)

    def _rounds(self, one: SeriesResult) -> float | None:
        first = self._first(one)
        return None if first is None else first + 1.0

    def _spent(self, one: SeriesResult, spent: Mapping[int, float], unit: float = 1.0) -> float | None:
        first = self._first(one)
        return spent[first] / unit if first is not None and first in spent else None

    def _megabytes(self, one: SeriesResult) -> float | None:
        return self._spent(one, one.spent(), MEGABYTE)

    def _seconds(self, one: SeriesResult) -> float | None:
        return self._spent(one, one.curve("virtual_seconds"))

    def reached(self, method: str) -> tuple[int, int]:
        """In how many of its seeds a method reaches the target."""
        sound = self.sound(method)
        return sum(self._first(one) is not None for one in sound), len(sound)

    def _reached(self) -> float:
        """What each seed of fedavg-lora ends with on own rows, else of local, in whole thousandths; 0 without one."""
        for control in reversed(CONTROLS):
            known = [one.last["accuracy"] for one in self.sound(control) if "accuracy" in one.last]
            if known:
                return math.floor(1000 * min(known)) / 1000
        return 0.0


def over_seeds(values: Sequence[float], figure: Figure) -> Summary:
    """The mean, with the interval of Student's t; of an exact figure whose values are equal, the value itself."""
    n, mean = len(values), statistics.fmean(values)
    exact = (mean, mean) if figure.exact else None
    if n < 2:
        return Summary(mean, exact, n)
    spread = statistics.stdev(values)
    if spread <= ROUNDING * max(map(abs, values)):
        return Summary(mean, exact, n)
    half, (low, high) = student_quantile(n - 1) * spread / math.sqrt(n), figure.range
    return Summary(mean, (max(low, mean - half), min(high, mean + half)), n)

"""What federated methods are worth: the accuracy of their last round, beside local training and FedAvg."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hybrid.metrics import Measured, RoundMetrics
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from pipelines.atlas.comparison import ACCURACY, CONTROLS, F1, MAJORITY, MAJORITY_F1, MCC, Comparison, Figure, Summary
from pipelines.atlas.results import SeriesResult, read_series

DIGITS = 6
NO_EFFECT = 0.0, (0.0, 0.0)
"""A difference of nothing, as control of a paired difference, and the MCC of an answer that is always the same."""


@dataclass(frozen=True)
class Atlas:
    """The last round of a series scores its accuracy on the dev rows: the mean over clients of the model each holds.

    Its control is the label that is most frequent in training, on the same rows. Other rounds have no score, and no
    series has one that a guard found void: equal to another method's to the bit, not trained, not whole. Measured of
    each method are F1, MCC where a task asks for it, the worst client, bytes, and the differences to `local` and
    `fedavg-lora`, paired by seed. Intervals are over seeds.
    """

    target: float = field(
        default=0.0,
        metadata={
            "help": "accuracy on own rows up to which bytes and rounds are counted; 0: what fedavg-lora ends with"
        },
    )

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> AtlasOfRun:
        """The grader for the outputs of a run, which says what its tasks are judged by."""
        return AtlasOfRun(self.target, *about_of(run))


def about_of(run: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What a run says of itself: methods that are the same as others at its settings, and the metric of each task."""
    about = run.get("about")
    found = [about.get(name) if isinstance(about, Mapping) else None for name in ("same_as", "metrics")]
    same_as, metrics = (
        {str(name): str(value) for name, value in one.items()} if isinstance(one, Mapping) else {} for one in found
    )
    return same_as, metrics


@dataclass(frozen=True)
class AtlasOfRun:
    """The grader of one run, before it has seen the records."""

    target: float
    same_as: Mapping[str, str]
    metrics: Mapping[str, str]

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[AtlasMeasures]:
        """Read all rounds. No model is asked."""
        yield AtlasMeasures(Comparison(read_series(outputs), self.same_as, self.metrics, self.target))


class AtlasMeasures:
    """The grader after it has seen all rounds."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._series = {one.name: one for one in comparison.series}

    @property
    def mixes(self) -> str:
        """What the scores are of, where that makes their mean say nothing."""
        return "methods" if len(self._comparison.methods) > 1 else ""

    def grade(self, output: Output) -> Grade:
        """The score of a last round; for anything else none is due."""
        one = self._series.get(output.task)
        if one is None:
            return Grade(None, "not a round of a method: what a client trains has no score of its own", due=False)
        if _before_last(output, one):
            return Grade(None, "not the last round", due=False)
        if reason := self._comparison.void.get(one.name):
            return Grade(None, reason)
        accuracy = ACCURACY.of(one)
        if accuracy is None or not 0.0 <= accuracy <= 1.0:
            return Grade(None, "no accuracy on the dev rows")
        return Grade(accuracy, figures=_shares(one), controls=_control(one))

    def measures(self) -> Iterator[Measured]:
        """The figures of every method, each beside its control."""
        for method in self._comparison.methods:
            yield from measured(self._comparison, method)


def _before_last(output: Output, one: SeriesResult) -> bool:
    """Whether a record is of a round before the last that the series should have; one that cannot be read is not."""
    try:
        return RoundMetrics.from_text(output.text or "").round < one.records - 1
    except ValueError:
        return False


def measured(comparison: Comparison, method: str) -> Iterator[Measured]:
    """The figures of a method, in the order in which they are shown."""
    yield from _beside_majority(comparison, method)
    for control in CONTROLS:
        found = comparison.paired(method, control)
        if found:
            name, interval = f"accuracy minus that of {control}", _rounded(found.interval)
            against = f"{control}, paired by seed"
            yield Measured(
                method, name, round(found.mean, DIGITS), found.n, interval, *NO_EFFECT, against, better="higher"
            )
        by_client = comparison.paired_by_client(method, control)
        if by_client:
            seeds = len(comparison.sound(method))
            against = f"{control}, by client{' within seeds' if seeds > 1 else ' of one seed'}"
            name, interval = f"accuracy on own rows minus that of {control}", _rounded((by_client.low, by_client.high))
            value = round(by_client.mean, DIGITS)
            yield Measured(method, name, value, by_client.n, interval, *NO_EFFECT, against, better="higher")
    for figure in comparison.figures():
        own = comparison.summary(method, figure)
        if own is None or figure in (F1, MCC):
            continue
        control = CONTROLS[1] if method != CONTROLS[1] else CONTROLS[0]
        yield _measured(method, figure, own, comparison.summary(control, figure), control)


def _beside_majority(comparison: Comparison, method: str) -> Iterator[Measured]:
    """Accuracy, F1 and MCC beside the answer that is always the same."""
    for figure, control in ((ACCURACY, MAJORITY), (F1, MAJORITY_F1)):
        if own := comparison.summary(method, figure):
            yield _measured(method, figure, own, comparison.summary(method, control), "the most frequent label")
    if MCC in comparison.figures() and (own := comparison.summary(method, MCC)):
        value, interval = round(own.mean, DIGITS), _rounded(own.interval)
        yield Measured(method, MCC.name, value, own.n, interval, *NO_EFFECT, "the most frequent label", MCC.better)


def _measured(method: str, figure: Figure, own: Summary, control: Summary | None, against: str) -> Measured:
    value, interval = round(own.mean, DIGITS), _rounded(own.interval)
    if control is None:
        return Measured(method, figure.name, value, own.n, interval, better=figure.better)
    known = round(control.mean, DIGITS), _rounded(control.interval)
    return Measured(method, figure.name, value, own.n, interval, *known, against, figure.better)


def _rounded(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (round(interval[0], DIGITS), round(interval[1], DIGITS))


def _shares(one: SeriesResult) -> dict[str, float]:
    """The figures of a series that lie in [0, 1]."""
    found = {"F1": F1.of(one), "worst client": one.last.get("accuracy_worst")}
    return {name: value for name, value in found.items() if value is not None and 0.0 <= value <= 1.0}


def _control(one: SeriesResult) -> dict[str, float]:
    value = MAJORITY.of(one)
    return {} if value is None or not 0.0 <= value <= 1.0 else {"most frequent label": value}

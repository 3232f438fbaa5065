"""Answers from memory, arm by arm: a rule or the run's judge says which are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.grading import calibration
from hybrid.grading.answers import normal
from hybrid.grading.judging.recorded import RunJudge
from hybrid.grading.references import acceptable
from hybrid.metrics import Interval, Measured
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from hybrid.statistics.intervals import ClusteredMean, difference
from pipelines.seal.knowledge.comparison import Comparison, RoundRewards, compare
from pipelines.seal.knowledge.verdicts import grade

DIGITS = 6


@dataclass(frozen=True)
class Knowledge:
    """1 when a rule or the verdict of the run's own judge calls the answer right, 0 when wrong, else no score.

    The answers are those of several arms, so they have no mean. Measured are the share of right answers of each arm on
    evaluation passages, its gain over controls on the same questions, and the rewards of every round on training
    passages; intervals are clustered by passage.
    """

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> Knowledge | JudgedKnowledge:
        """The grader with the judge's name and digest, when the outputs name exactly one judge."""
        judge = RunJudge.of(run, models)
        return JudgedKnowledge(judge) if judge else self

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[KnowledgeMeasures]:
        """Read all answers. No model is asked."""
        yield KnowledgeMeasures(compare(outputs), None)


@dataclass(frozen=True)
class JudgedKnowledge(Knowledge):
    """The same for a run whose judge is known: its measured errors are those of the grader `judge`."""

    judge: RunJudge

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[KnowledgeMeasures]:
        """Read all answers. No model is asked."""
        yield JudgedMeasures(compare(outputs), self.judge)


class KnowledgeMeasures:
    """The grader after it has seen all answers."""

    mixes = "arms"

    def __init__(self, found: Comparison, check: Mapping[str, Any] | None) -> None:
        self._found, self._check = found, check

    def grade(self, output: Output) -> Grade:
        """The grade of one answer."""
        return grade(output)

    def measures(self) -> Iterator[Measured]:
        """Every arm beside its controls, then every round's rewards."""
        for name in self._found.names():
            of_arm = self._found.arms[name]
            yield _share(name, "right", of_arm.right)
            yield from self._corrected(name, of_arm.right)
            for control, gains in of_arm.gains.items():
                yield from _gain(name, control, gains)
            if of_arm.failed:
                yield Measured(name, "answers without a score", of_arm.failed.total(), of_arm.failed.total())
        for number, of_round in sorted(self._found.rounds.items()):
            yield from _rewards(f"training, round {number}", of_round)

    def _corrected(self, name: str, right: ClusteredMean) -> Iterator[Measured]:
        """The share without the judge's measured errors, where these are known."""
        if not (self._check and right.n):
            return
        if known := calibration.corrected_by(self._check, right.mean or 0.0, right.effective_size()):
            value: Any = known["score"]
            interval: Any = known["interval"]
            what = "right, corrected for the judge's errors"
            yield Measured(name, what, round(value, DIGITS), right.n, _rounded(interval), better="higher")


class JudgedMeasures(KnowledgeMeasures):
    """The measures of a run whose judge is known."""

    def __init__(self, found: Comparison, judge: RunJudge) -> None:
        self._judge, self.checked_as = judge, judge.checked_as
        super().__init__(found, calibration.known(judge.checked_as))

    def about(self) -> Mapping[str, Json]:
        """The judge, its digest, and version and digest of its prompt."""
        return self._judge.about()


def _share(group: str, what: str, sums: ClusteredMean) -> Measured:
    return Measured(group, what, round(sums.mean or 0.0, DIGITS), sums.n, _rounded(sums.interval()), better="higher")


def _gain(name: str, control: str, gains: ClusteredMean) -> Iterator[Measured]:
    """The paired difference to a control."""
    if gains.n:
        found = difference(gains)
        interval = _rounded((found.low, found.high))
        by = f"{control}, on the same questions, clustered by passage"
        what = f"right minus that of {control}"
        yield Measured(name, what, round(found.mean, DIGITS), found.n, interval, 0.0, (0.0, 0.0), by, "higher")


def _rewards(group: str, found: RoundRewards) -> Iterator[Measured]:
    """What a round's texts were worth, and why some had no reward."""
    for what, sums in (("reward of a text", found.texts), ("reward of the best text", found.best)):
        if sums.n:
            yield _share(group, what, sums)
    if found.base.n:
        yield _share(group, "right before training", found.base)
        yield Measured(group, "passages with a text that helped", found.better, found.passages)
    yield Measured(group, "different texts", found.different, found.written)
    for why, count in sorted(found.without.items()):
        yield Measured(group, f"texts without a reward: {why}"[:100], count, found.written)


def _rounded(interval: Sequence[float] | None) -> Interval | None:
    return (round(interval[0], DIGITS), round(interval[1], DIGITS)) if interval else None

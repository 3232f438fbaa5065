"""The summary of grades: score, interval, figures, controls, and counts of everything without a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hybrid.canonical import Json
from hybrid.records import Grade, Question
from hybrid.statistics.intervals import ClusteredMean, difference
from hybrid.statistics.majority import MajorityControl

MOST_REASONS = 50
"""Distinct reasons that are counted by name; the others are counted together."""

LONGEST_REASON = 200
REST = "(other)"

Unit = Literal["task", "question"]

NOTHING_DUE = "none, since nothing here is to be graded: see what is measured"
"""The method of a summary without a score where none was to be expected."""


class Reasons:
    """Counts reasons by name. The number of names is bounded, since they come from untrusted files."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Count `name` once more."""
        name = name[:LONGEST_REASON]
        if name not in self.counts and len(self.counts) >= MOST_REASONS:
            name = REST
        self.counts[name] = self.counts.get(name, 0) + 1

    def summary(self) -> Mapping[str, Json]:
        """How many, and how many of each."""
        return {"count": sum(self.counts.values()), "reasons": dict(sorted(self.counts.items()))}


class GradeSummary:
    """Accumulates grades in order of task, in the memory of one task."""

    def __init__(self, unit: Unit, majority: MajorityControl) -> None:
        self._unit = unit
        self._majority = majority
        self._score = ClusteredMean()
        self._figures: dict[str, ClusteredMean] = {}
        self._controls: dict[str, ClusteredMean] = {}
        self._gains: dict[str, ClusteredMean] = {}  # score minus that of an arm, paired by unit
        self._reasons = Reasons()
        self._not_due = Reasons()
        self._failed = Reasons()
        self.ungraded_outputs = Reasons()
        self._questions = self._outputs = self._constants = 0
        self._task: str | None = None
        self._open: list[Grade] = []  # the grades of the task that is being read, for unit "task"

    def failed(self, kind: str) -> None:
        """Count one output that is a failure."""
        self._failed.count(kind)

    def add(self, question: Question, grade: Grade, constant: str | None) -> None:
        """Add one grade; `constant` is the constant answer that would have been right."""
        self._questions += 1
        self._outputs += len(question.outputs)
        for name, value in grade.figures.items():
            self._figures.setdefault(name, ClusteredMean()).add(question.task, value)
        if constant is not None:
            self._constants += 1
            self._majority.add(question.task, constant)
        if self._unit == "question":
            self._unit_done(question.task, grade)
            return
        if question.task != self._task:
            self._close()
            self._task = question.task
        self._open.append(grade)

    def _close(self) -> None:
        """Add the finished task: its lowest score, or no score when one of its questions has none."""
        if not self._open or self._task is None:
            return
        without = sorted((grade for grade in self._open if grade.score is None), key=lambda grade: not grade.due)
        ungraded = next(iter(without), None)
        if ungraded:
            self._unit_done(self._task, ungraded)
        else:
            controls, arms = (_lowest([getattr(grade, part) for grade in self._open]) for part in ("controls", "arms"))
            score = min(grade.score for grade in self._open if grade.score is not None)
            self._unit_done(self._task, Grade(score, controls=controls, arms=arms))
        self._open = []

    def _unit_done(self, task: str, grade: Grade) -> None:
        for name, value in grade.arms.items():  # an arm has its score also where the first arm has none
            self._controls.setdefault(name, ClusteredMean()).add(task, value)
            if grade.score is not None:
                self._gains.setdefault(name, ClusteredMean()).add(task, grade.score - value)
        if grade.score is None:
            (self._reasons if grade.due else self._not_due).count(grade.reason)
            return
        self._score.add(task, grade.score)
        for name, value in grade.controls.items():
            self._controls.setdefault(name, ClusteredMean()).add(task, value)

    def _gain(self, name: str) -> Mapping[str, Json]:
        """The paired difference of the score and an arm, on units that have both; empty for other controls."""
        if name not in self._gains:
            return {}
        mean, low, high, n = difference(self._gains[name])
        return {"gain": round(mean, 12), "gain_interval": [low, high], "gain_n": n}

    @property
    def effective_size(self) -> float:
        """The effective sample size: independent scores that carry the same information; 0 without any."""
        return self._score.effective_size() if self._score.n else 0.0

    def summary(self) -> dict[str, Any]:
        """The summary of grades.json (docs/format.md). Nothing may be added afterwards."""
        self._close()
        controls: dict[str, Json] = {
            name: {**_measure(sums, "score"), **self._gain(name)} for name, sums in self._controls.items()
        }
        if self._constants:
            controls["majority answer"] = _measure(self._majority.result(), "score")
        interval = self._score.interval()
        method = "Wilson, 95 %, clustered by task" if self._score.clusters < self._score.n else "Wilson, 95 %"
        not_due = {"not_due": self._not_due.summary()} if self._not_due.counts else {}
        if not_due and not self._score.n and not self._reasons.counts:
            method = NOTHING_DUE
        return {
            "unit": self._unit,
            "n": self._score.n,
            "score": self._score.mean,
            "interval": list(interval) if interval else None,
            "method": method,
            "ungraded": self._reasons.summary(),
            **not_due,
            "ungraded_outputs": self.ungraded_outputs.summary(),
            "questions": self._questions,
            "outputs": self._outputs,
            "failed_outputs": dict(sorted(self._failed.counts.items())),
            "figures": {name: _measure(sums, "mean") for name, sums in sorted(self._figures.items())},
            "controls": dict(sorted(controls.items())),
        }


def without_mean(mixed: str) -> dict[str, Any]:
    """What a summary has instead of a mean over scores that are of several `mixed` (methods, say): their mean would say
    nothing of any of them.
    """
    said = f"none, since the scores are of several {mixed}: see what is measured of each"
    return {"score": None, "interval": None, "method": said, "figures": {}, "controls": {}}


def _lowest(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The lowest value of every name that occurs in all."""
    names = set(each[0]).intersection(*each)
    return {name: min(values[name] for values in each) for name in sorted(names)}


def _measure(sums: ClusteredMean, name: str) -> Mapping[str, Json]:
    interval = sums.interval()
    return {name: sums.mean, "n": sums.n, "interval": list(interval) if interval else None}

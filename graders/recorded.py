"""The scores that another tool gave, as its file has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.bounds import help_of
from hybrid.metrics import LONGEST, Interval, Measured
from hybrid.records import Grade, Output, Question
from hybrid.statistics.intervals import ClusteredMean
from hybrid.statistics.reducers import MEAN, reducer

NO_SCORE = "no score"
FAILED = "the output failed"
MOST_SCORERS = 200
REST = "(other)"
MOST_REASONS = 50


@dataclass(frozen=True)
class Recorded:
    """The scores that inspect, lm-eval or a table's column gave: of each scorer the mean, its interval and its n.

    A question's score is that of `scorer`, the mean over its samples; every scorer is measured beside it, with each
    reducer that the file names. A score that is missing, NaN or no number leaves the denominator and is counted with
    its reason.
    """

    scorer: str = field(default="", metadata=help_of("whose scores are the score; empty: the file's headline or first"))

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> ReadyRecorded:
        """The grader for a file that names its scorers and reducers."""
        about = run.get("about")
        about = about if isinstance(about, Mapping) else {}
        names = [one for one in _texts(about.get("scorers")) if one][:MOST_SCORERS]
        first = self.scorer or str(about.get("headline") or "")
        return ReadyRecorded(first, names, _texts(about.get("reducers")) or [MEAN])

    def grade_question(self, question: Question) -> Grade:
        """The mean of the recorded scores of one question."""
        return ReadyRecorded(self.scorer, [], [MEAN]).grade_question(question)


class ReadyRecorded:
    """Grades questions in order, and measures every scorer. Used for one reading of the outputs."""

    def __init__(self, scorer: str, names: Sequence[str], reducers: Sequence[str]) -> None:
        self._scorer = scorer
        self._reducers = list(dict.fromkeys(reducers))
        self._means: dict[tuple[str, str], _Mean] = {}
        self._reasons: dict[tuple[str, str], int] = {}
        self._names = list(names)
        self._outputs = self._collected = 0
        for name in self._names:
            self._known(name)

    def grade(self, output: Output) -> Grade:
        """The score of one output."""
        return self.grade_question(Question(output.task, output.question, output.reference, (output,)))

    def grade_question(self, question: Question) -> Grade:
        """The mean score of a question's outputs, as the scorer that is asked for gave them. No text is looked at."""
        self._outputs += len(question.outputs)
        found: dict[str, list[float]] = {name: [] for name in self._names}
        for output in question.outputs:
            self._collect(output, found)
        for (name, rule), mean in self._means.items():
            if values := found.get(name):
                reduced = reducer(rule)
                value = reduced(values) if reduced else None
                if value is not None:
                    mean.add(question.task, value)
        return self._grade(question, found)

    def _collect(self, output: Output, found: dict[str, list[float]]) -> None:
        """Add the scores of one output to `found`, and count those that it lacks."""
        scores, reasons = output.view.get("scores"), output.view.get("unscored")
        scores = scores if isinstance(scores, dict) else {}
        reasons = reasons if isinstance(reasons, dict) else {}
        whose = output.view.get("filter")
        for name in (*scores, *reasons):
            if name not in found and len(found) < MOST_SCORERS:
                found[name] = []
                self._names.append(name)
                self._known(name)
                if self._collected and not isinstance(whose, str):  # the outputs before this one lacked it
                    self._count(name, NO_SCORE, self._collected)
        for name, values in found.items():
            value = scores.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.append(float(value))
            elif not isinstance(whose, str) or name.endswith(f",{whose}"):  # a row has the scores of its filter alone
                said = reasons.get(name) or (FAILED if output.error else NO_SCORE)
                self._count(name, str(said))
        self._collected += 1

    def _count(self, name: str, reason: str, times: int = 1) -> None:
        key = (name, reason[:60])
        if key not in self._reasons and len(self._reasons) >= MOST_REASONS:
            key = (name, REST)
        self._reasons[key] = self._reasons.get(key, 0) + times

    def _known(self, name: str) -> None:
        for rule in self._reducers:
            self._means.setdefault((name, rule), _Mean())

    def _grade(self, question: Question, found: Mapping[str, list[float]]) -> Grade:
        chosen = self._scorer or next(iter(self._names), "")
        values = found.get(chosen)
        if not chosen:
            return Grade(None, "the file has no scores")
        if not values:
            failed = all(output.error for output in question.outputs)
            return Grade(None, FAILED if failed else f"{NO_SCORE} of {chosen}")
        mean = sum(values) / len(values)
        if not 0.0 <= mean <= 1.0:
            return Grade(None, f"scores of {chosen} are not in [0, 1]: see what is measured")
        return Grade(mean)

    def measures(self) -> Iterable[Measured]:
        """The mean of every scorer by each reducer, then how many outputs have no score, by scorer and reason."""
        several = len(self._reducers) > 1
        for (name, rule), mean in self._means.items():
            if mean.sums.n and abs(mean.value) <= 1e100:
                group = rule if several else ""
                yield Measured(group, name[:LONGEST], mean.value, mean.sums.n, mean.interval())
        for (name, reason), count in sorted(self._reasons.items()):
            yield Measured("outputs without a score", f"{name}: {reason}"[:LONGEST], float(count), self._outputs)


class _Mean:
    """A mean over questions, and whether all of its values lie in [0, 1], as Wilson's interval needs."""

    def __init__(self) -> None:
        self.sums = ClusteredMean()
        self._shares = True

    def add(self, task: str, value: float) -> None:
        self._shares = self._shares and 0.0 <= value <= 1.0
        self.sums.add(task, value)

    @property
    def value(self) -> float:
        return self.sums.mean or 0.0

    def interval(self) -> Interval | None:
        return self.sums.interval() if self._shares else self.sums.unbounded_interval()


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

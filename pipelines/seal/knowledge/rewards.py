"""The reward of a text about a passage: how many of its questions the model answers after learning it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from hybrid.records import Output
from pipelines.seal.knowledge.arms import BASE
from pipelines.seal.knowledge.verdicts import grade

NOT_COMPARABLE = "no question has a verdict on every text and on the model without training"
Scores = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Reward:
    """The share of `questions` that are right after learning a text (`value`), a mean over its trainings, and before
    (`base`).

    Those are the questions that have a verdict on all texts of the passage that were learned, after each training, and
    on the model without training: else a text could win by the questions that were not graded. `value` is None without
    any; `why` says so.
    """

    task: str
    completion: int
    text: str
    value: float | None
    base: float | None
    questions: int
    why: str = ""

    @property
    def beats_base(self) -> bool:
        """Whether learning the text made the answers better."""
        return self.value is not None and self.base is not None and self.value > self.base


def rewards(outputs: Iterable[Output]) -> Iterator[Reward]:
    """The rewards of the training records of one round, passage by passage. The outputs are in the order of tasks."""
    for task, group in groupby(outputs, key=lambda output: output.task):
        yield from _of_passage(task, list(group))


def best(found: Iterable[Reward], *, always: bool) -> Iterator[Reward]:
    """The best rewarded text of each passage, the first of equal ones: if it beats no training, or `always`."""
    for _, group in groupby(found, key=lambda reward: reward.task):
        rewarded = [one for one in group if one.value is not None]
        winner = max(rewarded, key=lambda one: (one.value or 0.0, -one.completion), default=None)
        if winner and (always or winner.beats_base):
            yield winner


def _of_passage(task: str, outputs: Sequence[Output]) -> Iterator[Reward]:
    base: Scores = {}
    each: dict[int, dict[str, list[float | None]]] = {}  # text -> question -> the score after each training
    reasons: dict[int, Counter[str]] = {}
    texts: dict[int, str] = {}
    for output in outputs:
        question, graded = output.question.partition("@")[0], grade(output)
        if output.view.get("arm") == BASE:
            base[question] = graded.score
            continue
        number = output.view.get("completion")
        if type(number) is not int:
            continue
        each.setdefault(number, {}).setdefault(question, []).append(graded.score)
        if graded.score is None:
            reasons.setdefault(number, Counter())[graded.reason] += 1
        if isinstance(given := output.view.get("texts"), list) and given and isinstance(given[0], str):
            texts[number] = given[0]
    scores = {number: {question: _over(those) for question, those in own.items()} for number, own in each.items()}
    common = _common([base, *(own for own in scores.values() if set(own.values()) != {None})])
    for number, own in sorted(scores.items()):
        why = reasons.get(number, Counter[str]()).most_common(1)
        yield _reward(task, number, texts.get(number, ""), own, base, common, why[0][0] if why else "")


def _over(trainings: Sequence[float | None]) -> float | None:
    """The mean score of an answer over the trainings of a text; None when one of them has none."""
    known = [score for score in trainings if score is not None]
    return fmean(known) if len(known) == len(trainings) else None


def _common(each: Sequence[Mapping[str, float | None]]) -> list[str]:
    """The questions that have a score in all of them."""
    graded = [{question for question, score in scores.items() if score is not None} for scores in each]
    return sorted(set.intersection(*graded)) if graded else []


def _reward(task: str, number: int, text: str, own: Scores, base: Scores, common: Sequence[str], why: str) -> Reward:
    if set(own.values()) == {None}:
        return Reward(task, number, text, None, _mean(base, common), 0, why)
    value = _mean(own, common)
    return Reward(
        task, number, text, value, _mean(base, common), len(common), "" if value is not None else NOT_COMPARABLE
    )


def _mean(scores: Scores, questions: Sequence[str]) -> float | None:
    return sum(scores[one] or 0.0 for one in questions) / len(questions) if questions else None

"""What arms are worth: the share of right answers of each, its gain over controls, and rewards round by round."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean

from hybrid.records import Output
from hybrid.statistics.intervals import ClusteredMean
from pipelines.seal.knowledge.arms import BASE, CONTEXT, GIVEN, PASSAGE
from pipelines.seal.knowledge.passages import EVAL, TRAIN
from pipelines.seal.knowledge.rewards import Reward, rewards
from pipelines.seal.knowledge.verdicts import grade

ROUND = re.compile(r"round-([0-9]{1,4})")
ORDER = (BASE, CONTEXT, PASSAGE, GIVEN)
MOST_ARMS = 100


@dataclass(slots=True)
class ArmScores:
    """Right answers of an arm on evaluation passages, and by control the differences on questions that both answered.

    `failed` counts answers without a score by their reason.
    """

    right: ClusteredMean = field(default_factory=ClusteredMean)
    gains: dict[str, ClusteredMean] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class RoundRewards:
    """The rewards of a round on training passages: of all texts, of each passage's best, and of the model before."""

    texts: ClusteredMean = field(default_factory=ClusteredMean)
    best: ClusteredMean = field(default_factory=ClusteredMean)
    base: ClusteredMean = field(default_factory=ClusteredMean)
    better: int = 0  # passages with a text that beats no training
    passages: int = 0
    written: int = 0
    different: int = 0  # texts that differ within their passage
    without: Counter[str] = field(default_factory=Counter)  # texts without a reward, by the reason


@dataclass(slots=True)
class Comparison:
    """All arms on evaluation passages, and all rounds on training passages."""

    arms: dict[str, ArmScores] = field(default_factory=dict)
    rounds: dict[int, RoundRewards] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The arms in the order of reading: without training, with the passage, then the writers by round."""
        return sorted(self.arms, key=_place)


def compare(outputs: Iterable[Output]) -> Comparison:
    """Read the records of the results, passage by passage; one passage is held at a time."""
    found = Comparison()
    for task, group in groupby(outputs, key=lambda output: output.task):
        _add(found, task, list(group))
    return found


def controls_of(name: str, arms: Iterable[str]) -> list[str]:
    """What an arm is compared with: no training, the passage alone, and for later rounds the untrained writer."""
    known = list(arms)
    wanted = [BASE] if name != BASE else []
    if ROUND.fullmatch(name) or name == GIVEN:
        wanted.append(PASSAGE)
    if ROUND.fullmatch(name) and name != "round-0":
        wanted.append("round-0")
    return [one for one in wanted if one in known]


def arm_in(output: Output) -> str:
    """The name of a record's arm; "" for a record that is none of these."""
    arm = output.view.get("arm")
    return arm if isinstance(arm, str) and (arm in ORDER or ROUND.fullmatch(arm)) else ""


def _place(name: str) -> tuple[int, int]:
    of_round = ROUND.fullmatch(name)
    return (len(ORDER), int(of_round[1])) if of_round else (ORDER.index(name), 0)


def _add(found: Comparison, task: str, outputs: Sequence[Output]) -> None:
    """Count the records of one passage."""
    scores = _scores(found, [one for one in outputs if one.view.get("split") == EVAL])
    for name, own in scores.items():
        for score in own.values():
            found.arms[name].right.add(task, score)
        for control in controls_of(name, scores):
            gains = found.arms[name].gains.setdefault(control, ClusteredMean())
            for question, score in own.items():
                if question in scores[control]:
                    gains.add(task, score - scores[control][question])
    trained = [one for one in outputs if one.view.get("split") == TRAIN and type(one.view.get("round")) is int]
    for number in sorted({one.view["round"] for one in trained}):
        of_round = [one for one in trained if one.view["round"] == number]
        _add_round(found.rounds.setdefault(number, RoundRewards()), task, list(rewards(of_round)))


def _scores(found: Comparison, outputs: Iterable[Output]) -> dict[str, dict[str, float]]:
    """Arm -> question -> the mean score of its answers, of several texts or one. Others are counted by their reason."""
    each: dict[str, dict[str, list[float]]] = {}
    for output in outputs:
        name = arm_in(output)
        if not name or (name not in found.arms and len(found.arms) >= MOST_ARMS):
            continue
        of_arm, graded = found.arms.setdefault(name, ArmScores()), grade(output)
        own = each.setdefault(name, {})
        if graded.score is None:
            of_arm.failed[graded.reason] += 1
        else:
            own.setdefault(output.question.partition("@")[0], []).append(graded.score)
    return {name: {question: fmean(scores) for question, scores in own.items()} for name, own in each.items()}


def _add_round(of_round: RoundRewards, task: str, found: Sequence[Reward]) -> None:
    """Count the rewards of the texts about one passage."""
    of_round.passages += 1
    of_round.written += len(found)
    of_round.different += len({one.text for one in found if one.text})
    of_round.without.update(one.why or "no reason" for one in found if one.value is None)
    values = [one.value for one in found if one.value is not None]
    base = next((one.base for one in found if one.base is not None), None)
    for value in values:
        of_round.texts.add(task, value)
    if values and base is not None:
        of_round.best.add(task, max(values))
        of_round.base.add(task, base)
        of_round.better += max(values) > base

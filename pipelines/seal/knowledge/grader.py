"""Answers from memory, arm by arm: a rule or the run's judge says which are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hybrid.canonical import Json
from hybrid.grading.answers import normal
from hybrid.grading.references import acceptable
from hybrid.metrics import Measured
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from hybrid.statistics.intervals import ClusteredMean
from pipelines.seal.knowledge.verdicts import grade


@dataclass(frozen=True)
class Knowledge:
    """1 when a rule or the verdict of the run's own judge calls the answer right, 0 when wrong, else no score.

    The answers are those of several arms, so they have no mean; the share of right answers of each is measured, with
    intervals that are clustered by passage.
    """

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[KnowledgeMeasures]:
        """Read all answers. No model is asked."""
        arms: dict[str, ClusteredMean] = {}
        for output in outputs:
            score = grade(output).score
            if score is not None:
                arms.setdefault(arm_of(output), ClusteredMean()).add(output.task, score)
        yield KnowledgeMeasures(arms)


class KnowledgeMeasures:
    """The grader after it has seen all answers."""

    mixes = "arms"

    def __init__(self, arms: dict[str, ClusteredMean]) -> None:
        self._arms = arms

    def grade(self, output: Output) -> Grade:
        """The grade of one answer."""
        return grade(output)

    def measures(self) -> Iterator[Measured]:
        """The share of right answers of every arm."""
        for name, sums in sorted(self._arms.items()):
            yield Measured(name, "right", round(sums.mean or 0.0, 6), sums.n, sums.interval(), better="higher")


def arm_of(output: Output) -> str:
    """Split and arm of a record, with the round where the model without training is that of a round."""
    arm, split, round = (output.view.get(name) for name in ("arm", "split", "round"))
    at = f"round-{round}-" if arm == "base" and type(round) is int else ""
    return f"{split}/{at}{arm}"[:100]

"""The pairs of answers that arms gave to the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from hybrid.errors import UsageError, nearest
from hybrid.grading.arms import arm_of
from hybrid.grading.questions import grouped, in_order
from hybrid.records import Output, Question

MOST = 50
"""Arms that are compared: each pair of them is asked about on every question."""
HOW = "hybrid judge compare A B makes one file of the answers of several runs"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question, and whose they are; `sample` counts the pairs of the same two arms from 0."""

    arms: tuple[str, str]
    sample: int
    first: Output
    second: Output


@dataclass(frozen=True, slots=True)
class Arms:
    """The names of all arms in the order in which they first answer, and whether the outputs are in order."""

    names: tuple[str, ...]
    ordered: bool

    def questions(self, outputs: Iterable[Output]) -> Iterator[Question]:
        """The questions in order; outputs that are not are sorted on disk first."""
        return grouped(outputs if self.ordered else in_order(outputs), {}, "the outputs")

    def pairs(self, question: Question, baseline: str = "") -> Iterator[Pair]:
        """All pairs of arms on a question, or those with the arm `baseline`, sample by sample."""
        answers: dict[str, list[Output]] = {name: [] for name in self.names}
        for output in sorted(question.outputs, key=lambda output: output.sample):
            if name := arm_of(output):
                answers[name].append(output)
        for arms in combinations(self.names, 2):
            if not baseline or baseline in arms:
                both = zip(answers[arms[0]], answers[arms[1]], strict=False)
                for sample, (first, second) in enumerate(both):
                    yield Pair(arms, sample, first, second)


def arms_of(outputs: Iterable[Output], baseline: str, order: Sequence[str] = ()) -> Arms:
    """Read all outputs once; arms in `order` come first, those that have outputs.

    Raises UsageError without two arms, with too many, and for an unknown `baseline`.
    """
    names: dict[str, None] = {}
    ordered, last = True, ("", "")
    for output in outputs:
        ordered, last = ordered and last <= (output.task, output.question), (output.task, output.question)
        if name := arm_of(output):
            names[name] = None
        if len(names) > MOST:
            raise UsageError(
                f"pairwise: more than {MOST} arms", hint="compare fewer; view.arm names the arm of an output"
            )
    _check(list(names), baseline)
    found = [name for name in order if name in names]
    return Arms(tuple(dict.fromkeys((*found, *names))), ordered)


def _check(names: Sequence[str], baseline: str) -> None:
    if len(names) < 2:
        found = f"only the arm '{names[0]}'" if names else "no arm"
        raise UsageError(f"pairwise compares the arms of a run, and the outputs name {found} (view.arm)", hint=HOW)
    if baseline and baseline not in names:
        raise UsageError(f"pairwise: there is no arm '{baseline}' to be the baseline", hint=nearest(baseline, names))

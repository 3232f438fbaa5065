"""LLM as a judge: rules first, then a model's verdicts on whether answer and reference agree; docs/judge.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.errors import UsageError, nearest
from hybrid.grading.answers import RULES, normal
from hybrid.grading.judging import asking, verdict
from hybrid.grading.judging.asking import USUAL_RULES, VERSION
from hybrid.grading.judging.panel import Call, Panel, Replies
from hybrid.grading.judging.verdict import Verdict, Vote
from hybrid.grading.references import acceptable
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output, Request
from hybrid.statistics.agreement import KrippendorffAlpha

SPLIT_VOTES = "the votes are split"


@dataclass(frozen=True)
class Judge(Panel):
    """1 when a rule or the majority of a model's verdicts calls the answer right, 0 when wrong, else no score."""

    rules: tuple[str, ...] = field(
        default=USUAL_RULES, metadata=help_of(f"call right without a model: {', '.join(RULES)}; empty: none")
    )
    swap: bool = field(default=False, metadata=help_of("ask twice: reference first, and answer first"))

    version: ClassVar[int] = VERSION

    def __post_init__(self) -> None:
        if unknown := [rule for rule in self.rules if rule not in RULES]:
            raise UsageError(f"judge: there is no rule '{unknown[0]}'", hint=nearest(unknown[0], RULES))
        super().__post_init__()

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[ReadyJudges]:
        """Ask the models for every verdict that no rule settles and that is not cached."""
        with self.replies("judge", partial(self._calls, outputs), watcher) as replies:
            yield ReadyJudges(self, replies)

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    def settled(self, output: Output) -> Grade | None:
        """The grade by a rule; None when a model has to be asked."""
        return asking.settled(output.text or "", output.reference, self.question_of(output), self.rules)

    @property
    def places(self) -> list[tuple[bool, int]]:
        """The votes of each judge: whether the order is swapped, and which sample."""
        return [
            (swapped, sample)
            for swapped in ((False, True) if self.swap else (False,))
            for sample in range(self.samples)
        ]

    def request(self, output: Output, place: tuple[bool, int], attempt: int) -> Request:
        """The request for one vote; each attempt has another seed."""
        swapped, sample = place
        asked, wanted = self.question_of(output), acceptable(output.reference)
        return self.asking.request(asked, wanted, output.text or "", swapped=swapped, sample=sample, attempt=attempt)

    def calls(self, output: Output) -> list[Call[Verdict]]:
        """The calls of each judge for an answer that no rule settles."""
        return [Call(partial(self.request, output, place), verdict.read) for place in self.places]

    def _calls(self, outputs: Iterable[Output]) -> Iterator[Call[Verdict]]:
        for output in outputs:
            if output.text is not None and not self.settled(output):
                yield from self.calls(output)


class ReadyJudges:
    """Grades from the cached verdicts of all judges."""

    def __init__(self, judge: Judge, replies: Replies) -> None:
        self._judge, self._replies = judge, replies
        self._alpha, self._swaps = KrippendorffAlpha(), [0, 0]
        self._counts = {"by rule": 0, "by verdict": 0, "repaired": 0, "unreadable": 0}

    def grade(self, output: Output) -> Grade:
        """The majority of the votes; no score without a majority of all requested votes."""
        settled = self._judge.settled(output)
        if settled:
            self._counts["by rule"] += 1
            return settled
        by_place = [self._replies.votes(call) for call in self._judge.calls(output)]
        return self._counted([vote for of_judge in zip(*by_place, strict=True) for vote in of_judge])

    def _counted(self, votes: list[Vote]) -> Grade:
        read = [vote for vote in votes if isinstance(vote, Verdict)]
        problems = [vote for vote in votes if isinstance(vote, str)]
        self._counts["by verdict"] += 1
        self._counts["repaired"] += sum(vote.repaired for vote in read)
        self._counts["unreadable"] += len(problems)
        self._alpha.add([vote.correct for vote in read])
        self._count_swaps(votes)
        right = sum(vote.correct for vote in read)
        detail = {"by": "verdict", "verdicts": [verdict.told(vote) for vote in votes]}
        if 2 * max(right, len(read) - right) <= len(votes):
            return Grade(None, problems[0] if problems else SPLIT_VOTES, detail=detail)
        return Grade(float(2 * right > len(votes)), detail=detail)

    def _count_swaps(self, votes: list[Vote]) -> None:
        """Count the verdicts that changed with the order of reference and answer."""
        if not self._judge.swap:
            return
        half = self._judge.samples
        for start in range(0, len(votes), 2 * half):
            for one, other in zip(votes[start : start + half], votes[start + half : start + 2 * half], strict=True):
                if isinstance(one, Verdict) and isinstance(other, Verdict):
                    self._swaps[0] += 1
                    self._swaps[1] += one.correct != other.correct

    def about(self) -> Mapping[str, Json]:
        """Models and their digests, the numbers of grades by rule and by verdict, and the agreement of votes."""
        asked: dict[str, Any] = {"version": self._judge.version, "prompt": asking.prompt_digest(self._judge.asking)}
        about: dict[str, Any] = {"models": self._replies.models(), **asked, "counts": dict(self._counts)}
        if self._alpha.rows:
            about["agreement"] = {"alpha": self._alpha.value, "rows": self._alpha.rows}
        if self._judge.swap:
            about["swaps"] = {"pairs": self._swaps[0], "changed": self._swaps[1]}
        return about

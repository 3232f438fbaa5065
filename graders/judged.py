"""Grades by the verdicts that a judge gave during the run, without asking a model; docs/judge.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.grading.answers import normal
from hybrid.grading.judging.asking import question_of, settled
from hybrid.grading.judging.recorded import NOT_YET, RunJudge, grade_of, vote_in
from hybrid.grading.judging.verdict import Verdict
from hybrid.grading.references import acceptable
from hybrid.records import Grade, Output


@dataclass(frozen=True)
class Judged:
    """1 when a rule or the verdict of the run's own judge calls the answer right, 0 when wrong, else no score."""

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> Judged | ReadyJudged:
        """The grader with the judge's name and digest, when the outputs name exactly one judge."""
        judge = RunJudge.of(run, models)
        return ReadyJudged(judge) if judge else self

    def grade(self, output: Output) -> Grade:
        """The grade by a rule, else by the first readable verdict."""
        decided = _settled(output)
        return decided or grade_of(vote_in(output.view.get("judge")))


class ReadyJudged:
    """The grades of `Judged`, with the judge's name and counts; it shares the measured errors of the grader `judge`."""

    def __init__(self, judge: RunJudge) -> None:
        self._judge = judge
        self._counts = {"by rule": 0, "by verdict": 0, "repaired": 0, "unreadable": 0}

    @property
    def checked_as(self) -> Mapping[str, Json]:
        """The identity under which `hybrid judge check` keeps the errors of this judge."""
        return self._judge.checked_as

    def grade(self, output: Output) -> Grade:
        """The grade of `Judged`; also counts how it was decided."""
        if decided := _settled(output):
            self._counts["by rule"] += 1
            return decided
        vote = vote_in(output.view.get("judge"))
        if vote != NOT_YET:
            self._counts["by verdict"] += 1
            self._counts["unreadable"] += isinstance(vote, str)
            self._counts["repaired"] += isinstance(vote, Verdict) and vote.repaired
        return grade_of(vote)

    def about(self) -> Mapping[str, Json]:
        """The judge, its digest, version and digest of its prompt, and the numbers of grades by rule and by verdict."""
        return {**self._judge.about(), "counts": dict(self._counts)}


def _settled(output: Output) -> Grade | None:
    return settled(output.text or "", output.reference, question_of(output))

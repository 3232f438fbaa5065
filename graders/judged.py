"""Reads the verdicts that a judge gave during the run; no model is asked. docs/judge.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.grading.answers import normal
from hybrid.grading.judging import verdict
from hybrid.grading.judging.asking import question_of, settled
from hybrid.grading.judging.verdict import Verdict, Vote
from hybrid.grading.references import acceptable
from hybrid.records import Grade, Output

NO_VERDICTS = "the output holds no verdicts (view.judge)"
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Judged:
    """1 when a rule or the verdict of the run's own judge calls the answer right, 0 when wrong, else no score."""

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return normal(wanted[0]) if wanted else None

    def grade(self, output: Output) -> Grade:
        """The grade by a rule, else by the first readable verdict."""
        if decided := settled(output.text or "", output.reference, question_of(output)):
            return decided
        replies = output.view.get("judge")
        if not isinstance(replies, list):
            return Grade(None, NO_VERDICTS)
        vote = _vote(replies)
        detail = {"by": "verdict", "verdicts": [verdict.told(vote)]}
        if isinstance(vote, str):
            return Grade(None, vote, detail=detail)
        return Grade(float(vote.correct), detail=detail)


def _vote(replies: list[Any]) -> Vote:
    """The first readable verdict; else why the last reply is unreadable."""
    problem = NOT_JUDGED
    for reply in replies:
        said = reply if isinstance(reply, dict) else {}
        if isinstance(kind := said.get("error"), str):
            return f"the judge failed: {kind}"
        if not isinstance(text := said.get("text"), str):
            return verdict.UNREADABLE
        read = verdict.read(text, str(said.get("finish", "")))
        if isinstance(read, Verdict):
            return read
        problem = read
    return problem

"""A judge's replies as an output's `view.judge` holds them, and the grade that they come to."""

from __future__ import annotations

from hybrid.canonical import Json
from hybrid.grading.judging import verdict
from hybrid.grading.judging.replies import NOT_JUDGED, UNREADABLE
from hybrid.grading.judging.verdict import Verdict, Vote
from hybrid.records import Grade, Output

NO_VERDICTS = "the output holds no verdicts (view.judge)"


def reply_of(output: Output) -> Json:
    """The member of `view.judge` for the judge's record: its text, or the kind of its failure."""
    return {"error": output.error.kind} if output.error else {"text": output.text, "finish": output.finish}


def vote_in(replies: Json) -> Vote | None:
    """The first readable verdict; else why the last reply is unreadable. None when these are no replies."""
    if not isinstance(replies, list):
        return None
    problem = NOT_JUDGED
    for reply in replies:
        fields = reply if isinstance(reply, dict) else {}
        if isinstance(kind := fields.get("error"), str):
            return f"the judge failed: {kind}"
        if not isinstance(text := fields.get("text"), str):
            return UNREADABLE
        read = verdict.read(text, str(fields.get("finish", "")))
        if isinstance(read, Verdict):
            return read
        problem = read
    return problem


def grade_of(vote: Vote | None) -> Grade:
    """The grade by a verdict; without one no score, and the reason."""
    if vote is None:
        return Grade(None, NO_VERDICTS)
    detail = {"by": "verdict", "verdicts": [verdict.told(vote)]}
    return Grade(None, vote, detail=detail) if isinstance(vote, str) else Grade(float(vote.correct), detail=detail)

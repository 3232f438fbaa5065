"""A judge's replies as an output's `view.judge` holds them, the grade that they come to, and which judge it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.grading.judging import verdict
from hybrid.grading.judging.asking import VERSION, Asking, prompt_digest, usual_settings
from hybrid.grading.judging.replies import NOT_JUDGED, UNREADABLE
from hybrid.grading.judging.verdict import Verdict, Vote
from hybrid.records import NO_RECORD, Grade, Output

ROLE = "judge"
NO_VERDICTS = "the output holds no verdicts (view.judge)"
NOT_YET = "not judged yet"
"""Of an answer whose verdict has not arrived when the run is graded."""


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
            return NOT_YET if kind == NO_RECORD else f"the judge failed: {kind}"
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


@dataclass(frozen=True, slots=True)
class RunJudge:
    """The judge of a run: its name, the digest of its model, and its backend."""

    name: str
    digest: str
    backend: str

    @classmethod
    def of(cls, run: Mapping[str, Any], models: Sequence[Any]) -> RunJudge | None:
        """By the members `run` and `models` of outputs.json; None unless they name exactly one."""
        judges = [one for one in models if _is_judge(one)]
        named = run.get("models")
        spec = named.get(ROLE) if isinstance(named, dict) else None
        backend = spec.get("backend") if isinstance(spec, dict) else None
        if len(judges) != 1 or not isinstance(backend, str):
            return None
        return cls(judges[0]["name"], judges[0]["digest"], backend)

    @property
    def checked_as(self) -> Mapping[str, Json]:
        """The identity under which `hybrid judge check` keeps the errors of this judge: that of the grader `judge`."""
        settings = usual_settings(self.backend)
        return {"grader": "judge", "version": VERSION, "settings": settings, "models": [self.digest]}

    def about(self) -> dict[str, Json]:
        """The judge, and version and digest of its prompt."""
        judge: Json = {"name": self.name, "digest": self.digest, "backend": self.backend}
        return {"models": [judge], "version": VERSION, "prompt": prompt_digest(Asking())}


def _is_judge(model: Any) -> bool:
    """Whether this is a model of the run with the judge's role."""
    found = model if isinstance(model, dict) else {}
    return found.get("role") == ROLE and isinstance(found.get("name"), str) and isinstance(found.get("digest"), str)

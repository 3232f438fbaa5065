"""Whether a judge calls an answer right: its verdict on one answer, read from its reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.grading.judging import replies
from hybrid.grading.judging.replies import Said, reason_in, truth_in

LONGEST_REASON = 500
"""Characters of a reason that are kept with a grade."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`repaired`: the reply was not just the JSON object that was asked for, but holds one clear verdict."""

    correct: bool
    reason: str = ""
    repaired: bool = False


Vote = Verdict | str
"""A verdict, or why there is none."""


def told(vote: Vote) -> Json:
    """A vote as it stands in the detail of a grade."""
    if isinstance(vote, str):
        return {"problem": vote}
    return {"correct": vote.correct, "reason": vote.reason[:LONGEST_REASON]}


def read(text: str, finish: str) -> Vote:
    """The verdict in a reply, or why there is none, as `replies.read` says it."""
    said = replies.read(text, finish, _verdict_in)
    return said if isinstance(said, str) else Verdict(said.value, said.reason, said.repaired)


def _verdict_in(value: Mapping[str, Any]) -> Said[bool] | None:
    found = truth_in(value.get("correct"))
    return None if found is None else Said(found[0], reason_in(value), repaired=found[1])

"""From what a judge wrote to a verdict, or to the reason why it is none. Nothing is ever guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json

LONGEST = 8000
"""Characters of a reply that are looked at."""

CUT = "verdict cut off"
UNREADABLE = "unreadable verdict"
CONTRADICTORY = "contradictory verdict"


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
    return {"correct": vote.correct, "reason": vote.reason[:500]}


def read(text: str, finish: str) -> Verdict | str:
    """The verdict in a reply, or why there is none: CUT, UNREADABLE or CONTRADICTORY.

    Code fences, text around the object and a verdict written as a text are forgiven, two different verdicts are not.
    """
    text = text[:LONGEST]
    found = [verdict for value in _objects(text) if (verdict := _verdict(value)) is not None]
    if len({verdict.correct for verdict in found}) > 1:
        return CONTRADICTORY
    if not found:
        return CUT if finish == "length" else UNREADABLE
    return Verdict(found[-1].correct, found[-1].reason, repaired=not _plain(text))


def _verdict(value: dict[str, Any]) -> Verdict | None:
    correct = value.get("correct")
    if isinstance(correct, str) and correct.strip().lower() in ("true", "false"):
        correct = correct.strip().lower() == "true"
    if not isinstance(correct, bool):
        return None
    reason = value.get("reason", "")
    return Verdict(correct, reason if isinstance(reason, str) else "")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in a text, from left to right."""
    decoder, place = json.JSONDecoder(object_pairs_hook=_single), text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield value
        place = text.find("{", end)


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which a name stands twice with two values says two things: it is no object."""
    value = dict(pairs)
    if any(value[name] != other for name, other in pairs):
        raise ValueError("a name stands twice")
    return value


def _plain(text: str) -> bool:
    """Whether the reply is the object alone, with the verdict as a boolean."""
    try:
        value = json.loads(text, object_pairs_hook=_single)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("correct"), bool)

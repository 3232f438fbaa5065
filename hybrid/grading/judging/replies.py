"""From what a judge wrote to the one thing that it says, or to the reason why it says none. Nothing is ever guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

LONGEST = 8000
"""Characters of a reply that are looked at."""

CUT = "verdict cut off"
UNREADABLE = "unreadable verdict"
CONTRADICTORY = "contradictory verdict"
NOT_JUDGED = "not judged"
ANOTHER_TRY = frozenset({CUT, UNREADABLE, CONTRADICTORY})
"""Why a reply holds no verdict, where another draw may hold one."""

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Said(Generic[T]):
    """A verdict. `repaired`: the reply was not just the JSON object that was asked for, but holds one clear verdict."""

    value: T
    reason: str = ""
    repaired: bool = False


def read(text: str, finish: str, verdict_in: Callable[[Mapping[str, Any]], Said[T] | None]) -> Said[T] | str:
    """The verdict in a reply, or why there is none: CUT, UNREADABLE or CONTRADICTORY.

    `verdict_in` finds it in a JSON object. Code fences and text around the object are forgiven, two different verdicts
    are not.
    """
    text = text[:LONGEST]
    found = [said for value in _objects(text) if (said := verdict_in(value)) is not None]
    if len({said.value for said in found}) > 1:
        return CONTRADICTORY
    if not found:
        return CUT if finish == "length" else UNREADABLE
    last = found[-1]
    return Said(last.value, last.reason, last.repaired or not _is_one_object(text))


def reason_in(value: Mapping[str, Any]) -> str:
    """The reason beside a verdict; "" where it is none."""
    reason = value.get("reason", "")
    return reason if isinstance(reason, str) else ""


def truth_in(value: Any) -> tuple[bool, bool] | None:
    """A truth value, and whether it was written as a text, which is forgiven; None for anything else."""
    if isinstance(value, bool):
        return value, False
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true", True
    return None


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


def _is_one_object(text: str) -> bool:
    """Whether the reply is one object and nothing else."""
    try:
        return isinstance(json.loads(text, object_pairs_hook=_single), dict)
    except (ValueError, RecursionError):
        return False

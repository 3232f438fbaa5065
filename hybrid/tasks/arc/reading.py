"""Read the outputs of a question's views as grids in the question's own orientation, and vote for two attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.records import Output
from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.text import FORMATS, is_ended, parse
from hybrid.tasks.arc.views import ORDER, UNDO
from hybrid.tasks.arc.voting import METHODS, Vote

CUT = frozenset({"length", "max_tokens"})
"""Values of `finish` of a truncated answer: hybrid's, and those of other servers in files of other programs."""

ARMS = frozenset({"base"})
"""Values of `view["arm"]`: the same question answered by another model, as a control."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer in one output: a grid in the question's own orientation, or the reason why there is none."""

    grid: Grid | None
    reason: str
    transform: str


def answers(outputs: Sequence[Output]) -> tuple[list[Answer], Counter[str]]:
    """The answers, sorted so that the order of the file has no effect, and the failures by kind."""
    found: list[tuple[Any, Answer]] = []
    failed: Counter[str] = Counter()
    for output in outputs:
        transform, format = _view(output.view)
        if output.text is None:
            failed[output.error.kind if output.error else "no text"] += 1
        elif transform not in UNDO or format not in ("", *FORMATS):
            failed["unknown view"] += 1
        else:
            place = (ORDER[transform], str(output.view.get("train", "")), output.sample, output.key)
            found.append((place, _answer(output, transform, format)))
    found.sort(key=lambda each: each[0])
    return [answer for _, answer in found], failed


def by_arm(outputs: Sequence[Output]) -> dict[str, list[Output]]:
    """The outputs of each arm: "" are those that are graded, "?" those of an unknown arm."""
    arms: dict[str, list[Output]] = {"": [], "?": []}
    for output in outputs:
        arm = output.view.get("arm", "") if isinstance(output.view, Mapping) else ""
        known = arm == "" or (isinstance(arm, str) and arm in ARMS)
        arms.setdefault(arm if known else "?", []).append(output)
    return arms


def votes(answers: Sequence[Answer]) -> list[Vote]:
    """A vote for each answer that is a grid."""
    return [Vote(answer.grid, answer.transform) for answer in answers if answer.grid is not None]


def attempts(outputs: Sequence[Output], voting: str = "flat") -> tuple[Grid, ...] | None:
    """At most two attempts at one question, empty when no answer is a grid. None when every output failed."""
    found, _ = answers(outputs)
    return METHODS[voting](votes(found)) if found else None


def worst(failed: Counter[str]) -> str:
    """The most frequent kind of failure; ties by name."""
    return min(failed, key=lambda kind: (-failed[kind], kind))


def _view(view: Any) -> tuple[str, str]:
    """Transform and format of a view. Defaults: identity, and "" for a format to be detected."""
    if not isinstance(view, Mapping):
        return "?", ""
    return str(view.get("transform", "identity")), str(view.get("format", ""))


def _answer(output: Output, transform: str, format: str) -> Answer:
    text = output.text or ""
    if output.finish.lower() in CUT and not is_ended(text, format):  # a cut compact answer would read as a smaller grid
        return Answer(None, "cut at the token bound", transform)
    grid, reason = parse(text, format)
    return Answer(UNDO[transform](grid) if grid is not None else None, reason, transform)

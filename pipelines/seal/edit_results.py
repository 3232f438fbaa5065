"""The result of a self-edit: the record that its stage writes and that grader, policy training and report read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData
from hybrid.tasks.arc.grid import Grid, grid_of

Attempts: TypeAlias = tuple[tuple[Grid, ...], ...]
"""For each test input of a task at most two grids, best first."""

MOST_STEPS = 375
"""Most optimizer steps of a self-edit (SEAL's bound); one that needs more trains nothing."""

MOST_ATTEMPTS = 2
MOST_TESTS = 64
MOST_ARMS = 1000


@dataclass(frozen=True, slots=True)
class EditResult:
    """The result of one self-edit of one task. Attempts are None where every output for a test input failed.

    `edit` is None when the reply holds none. `untrained` says why nothing was trained (the attempts are then those of
    the untrained model), `failed` why there are no attempts. `first` marks the first of equal edits of the task.
    `together` holds the attempts of all edits of the task; only its first edit has it. `views` is the least number of
    answered prompts behind an attempt.
    """

    edit: Mapping[str, Json] | None
    reply: str = ""
    untrained: str = ""
    failed: str = ""
    bare: bool = False
    first: bool = False
    attempts: Attempts | None = None
    base: Attempts | None = None
    fixed: Attempts | None = None
    random: tuple[Attempts | None, ...] = ()
    together: tuple[Attempts | None, ...] = ()
    steps: int = 0
    tokens: int = 0
    views: int = 0
    policy: str = ""

    @property
    def trained(self) -> bool:
        """Whether a model was trained with the reply's configuration."""
        return not self.untrained and not self.failed

    def to_text(self) -> str:
        """Canonical JSON, the text of the record."""
        value: dict[str, Json] = {
            "edit": self.edit,
            "reply": self.reply,
            "untrained": self.untrained,
            "failed": self.failed,
            "bare": self.bare,
            "first": self.first,
            "attempts": self.attempts,
            "arms": {"base": self.base, "fixed": self.fixed, "random": self.random},
            "together": self.together,
            "steps": self.steps,
            "tokens": self.tokens,
            "views": self.views,
            "policy": self.policy,
        }
        return encode(value).decode()

    @classmethod
    def from_text(cls, text: str) -> EditResult:
        """Read what `to_text` wrote. Raises ValueError for anything else."""
        try:
            value = decode(text, what="a self-edit")
            arms = value["arms"]
            return cls(
                edit=_edit(value["edit"]),
                reply=_typed(value["reply"], str),
                untrained=_typed(value["untrained"], str),
                failed=_typed(value["failed"], str),
                bare=_typed(value["bare"], bool),
                first=_typed(value["first"], bool),
                steps=_count(value["steps"]),
                tokens=_count(value["tokens"]),
                views=_count(value["views"]),
                policy=_typed(value["policy"], str),
                attempts=_attempts(value["attempts"]),
                base=_attempts(arms["base"]),
                fixed=_attempts(arms["fixed"]),
                random=_several(arms["random"]),
                together=_several(value["together"]),
            )
        except (BadData, KeyError, TypeError) as error:
            raise ValueError(f"not the record of a self-edit: {error}") from error


def right(attempts: Attempts, truths: Sequence[Grid]) -> bool:
    """Whether each test input has a truth and one of its attempts equals it."""
    return len(attempts) == len(truths) and all(truth in tried for tried, truth in zip(attempts, truths, strict=True))


def truths_of(reference: Any) -> tuple[Grid, ...] | None:
    """A task's reference, a list with the output of each test input; None when it is not such a list."""
    if not isinstance(reference, list | tuple) or not 1 <= len(reference) <= MOST_TESTS:
        return None
    grids = [grid_of(each) for each in reference]
    return tuple([grid for grid in grids if grid is not None]) if None not in grids else None


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 2**53:
        raise TypeError(f"{value!r:.40} is no count")
    return value


def _edit(value: Any) -> Mapping[str, Json] | None:
    return None if value is None else dict(_typed(value, dict))


def _several(value: Any) -> tuple[Attempts | None, ...]:
    if len(_typed(value, list)) > MOST_ARMS:
        raise TypeError("too many arms")
    return tuple([_attempts(each) for each in value])


def _attempts(value: Any) -> Attempts | None:
    if value is None:
        return None
    if not 1 <= len(_typed(value, list)) <= MOST_TESTS:
        raise TypeError("attempts at no test input, or at too many")
    return tuple([_tried(each) for each in value])


def _tried(value: Any) -> tuple[Grid, ...]:
    if len(_typed(value, list)) > MOST_ATTEMPTS:
        raise TypeError("more than two attempts")
    grids = [grid_of(each) for each in value]
    if None in grids:
        raise TypeError("an attempt is no grid")
    return tuple([grid for grid in grids if grid is not None])

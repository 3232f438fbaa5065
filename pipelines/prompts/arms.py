"""Arms: several models, prompts or settings that answer the same prompts and are compared in one run."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

from hybrid.errors import UsageError, nearest
from hybrid.grading.judging.stages import ROLE
from hybrid.settings import parsed
from pipelines.prompts.asking import Asking

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SHARED = frozenset({"samples", "seed"})
"""Settings that are the same in all arms: prompts are compared sample by sample, each drawn with the same seed."""
SETTINGS = tuple(one.name for one in fields(Asking) if one.name not in SHARED)
_NEXT = re.compile(rf",(?=(?:{'|'.join(SETTINGS)})=)")
"""A comma before the next setting; others belong to the value."""


@dataclass(frozen=True)
class Arm:
    """An arm: its name ("" where there is only one), how it asks, and which of that it set itself."""

    name: str
    asking: Asking
    own: Collection[str] = ()


def arms_of(texts: Sequence[str], usual: Asking) -> tuple[Arm, ...]:
    """The arms as `NAME` or `NAME:setting=value,...` say them; without texts one arm that asks as usual.

    Raises UsageError for a name that is none or comes twice, and for a setting that an arm cannot have.
    """
    arms = tuple(_arm(text, usual) for text in texts) or (Arm("", usual),)
    names = [arm.name for arm in arms]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"two arms are named '{twice}'", hint="each arm has a name of its own")
    return arms


def _arm(text: str, usual: Asking) -> Arm:
    name, colon, rest = text.partition(":")
    if not NAME.fullmatch(name) or name == ROLE:
        raise UsageError(
            f"an arm cannot be named '{name:.60}'",
            hint=f"a name is made of a-z, 0-9 and -, begins with a letter and is not '{ROLE}'",
        )
    settings = _NEXT.split(rest) if colon else []
    for one in settings:
        if (known := one.partition("=")[0]) not in SETTINGS:
            raise UsageError(f"the arm '{name}' cannot have the setting '{known:.60}'", hint=nearest(known, SETTINGS))
    own = parsed(Asking, settings, f"the arm '{name}'")
    try:
        return Arm(name, Asking(**{one.name: getattr(usual, one.name) for one in fields(Asking)} | own), frozenset(own))
    except ValueError as error:
        raise UsageError(f"the arm '{name}': {error}") from error

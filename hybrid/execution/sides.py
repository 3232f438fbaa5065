"""Which side does a stage, or a role's part of a search, where a run says otherwise than its pipeline (`--side-of`).

A search whose roles are on two sides is divided: a worker replays it from all records, answers the items of its side's
roles, and waits for the records of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast, get_args

from hybrid.errors import UsageError, nearest
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Side, Stage
from hybrid.work import Search

FIRST = "generate"
"""What the role of the first model, "", is called here."""
OTHER: Mapping[str, Side] = {"gpu": "laptop", "laptop": "gpu"}


def sides_given(texts: Iterable[str], stages: Sequence[Stage]) -> dict[str, Side]:
    """`NAME=SIDE` texts, a name being that of a stage or of a role. Raises UsageError."""
    known = {stage.name for stage in stages}
    known |= {role or FIRST for stage in stages if stage.asks_a_model for role in stage.roles}
    found: dict[str, Side] = {}
    for text in texts:
        name, _, side = text.rpartition("=")
        shown = clean_line(text, 100)
        if side not in get_args(Side):
            raise UsageError(f"--side-of {shown}: a side is {', '.join(get_args(Side))}", hint="--side-of NAME=SIDE")
        if name not in known:
            what = f"no stage and no role of this run is called '{clean_line(name, 100)}'"
            raise UsageError(f"--side-of {shown}: {what}", hint=nearest(name, known))
        if name in found:
            raise UsageError(f"--side-of {shown}: the side of '{name}' is given twice", hint="give it once")
        found[name] = cast("Side", side)
    return found


def _by_role(stage: Stage, sides: Mapping[str, Side]) -> dict[str, Side]:
    """The side of each of a stage's roles. Of a search of which some are named, the others are on the other side."""
    whole = sides.get(stage.name)
    if whole or not stage.asks_a_model:
        return dict.fromkeys(stage.roles, whole or stage.side)
    named = {role: sides[role or FIRST] for role in stage.roles if (role or FIRST) in sides}
    where = set(named.values())
    rest = OTHER.get(where.pop(), stage.side) if len(where) == 1 else stage.side
    return {role: named.get(role, rest) for role in stage.roles}


def moved(stages: Sequence[Stage], sides: Mapping[str, Side]) -> tuple[Stage, ...]:
    """The stages on the sides that a run gives them; a divided search is on any."""

    def on_its_side(stage: Stage) -> Stage:
        (side, *others) = set(_by_role(stage, sides).values())
        return replace(stage, side="any" if others else side)

    return tuple(map(on_its_side, stages)) if sides else tuple(stages)


def parts(stage: Stage, sides: Mapping[str, Side]) -> dict[str, Side]:
    """The side of each role of a search that is divided; empty for every other stage."""
    found = _by_role(stage, sides) if isinstance(stage.work, Search) and sides else {}
    return found if len(set(found.values())) > 1 else {}


def roles_here(stage: Stage, sides: Mapping[str, Side], here: Collection[str]) -> tuple[str, ...]:
    """The roles of a stage whose items a worker of the sides `here` answers: all, unless the stage is divided."""
    divided = parts(stage, sides)
    return tuple(role for role in stage.roles if not divided or divided[role] in ("any", *here))


def asked_on(stages: Sequence[Stage], here: Collection[str], sides: Mapping[str, Side] | None = None) -> list[str]:
    """The roles whose models the stages on the sides `here` ask, in the order of the stages."""
    return list(dict.fromkeys(_asked(stages, here, sides or {})))


def _asked(stages: Sequence[Stage], here: Collection[str], sides: Mapping[str, Side]) -> Iterator[str]:
    for stage in stages:
        if stage.asks_a_model:
            divided = parts(stage, sides)
            yield from (role for role in stage.roles if divided.get(role, stage.side) in here)

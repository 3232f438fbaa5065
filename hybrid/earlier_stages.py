"""Stages as pipelines wrote them before there were kinds of work; such pipelines run as before.

    Stage(name, side, version, items, after=(), judges=False, derived=False, lessons=None)

`items` alone is now `Ask(items)`, with `lessons` it is `Tune(items, lessons)`, with `derived` it is `Derive(items)`.
`judges` is now `reads_references`. A plain function where the work stands is `items`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from hybrid.work import Ask, Derive, Rounds, Search, Tune, Work, maker_of

EARLIER = ("name", "side", "version", "items", "after", "judges", "derived", "lessons")
"""The earlier arguments, in order."""

KINDS = (Ask, Tune, Derive, Search, Rounds)

Made = TypeVar("Made")


def taking_earlier_arguments(cls: type[Made]) -> type[Made]:
    """The class of stages, which can be made with the earlier arguments, too."""
    make: Any = cls.__init__

    @wraps(make)
    def init(self: Made, *given: Any, **named: Any) -> None:
        if _is_earlier(given, named):
            given, named = (), present(given, named)
        make(self, *given, **named)

    cls.__init__ = init  # type: ignore[assignment]
    return cls


def present(given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of today for earlier ones. `dataclasses.replace` gives the work of a stage with earlier names."""
    if len(given) > len(EARLIER) or not named.keys().isdisjoint(EARLIER[: len(given)]):
        raise TypeError("a stage was given too many arguments, or one of them twice")
    told: dict[str, Any] = {**dict(zip(EARLIER, given, strict=False)), **named}
    work, was = told.pop("work", None), dict[str, Any]()
    if isinstance(work, KINDS):
        was = {"items": maker_of(work), "derived": isinstance(work, Derive), "lessons": getattr(work, "examples", None)}
    items = told.pop("items", was.get("items", work))
    derived, lessons = told.pop("derived", was.get("derived")), told.pop("lessons", was.get("lessons"))
    if "judges" in told:
        told["reads_references"] = told.pop("judges")
    return {**told, "work": _work(items, derived, lessons)}


def _work(items: Any, derived: Any, lessons: Any) -> Work:
    if not callable(items):
        raise TypeError(f"the work of a stage is Ask, Tune, Derive, Search or Rounds, not {items!r:.100}")
    if derived:
        return Derive(items)
    return Tune(items, lessons) if lessons else Ask(items)


def _is_earlier(given: Sequence[Any], named: Mapping[str, Any]) -> bool:
    work = given[3] if len(given) > 3 else named.get("work")
    return not isinstance(work, KINDS) or not named.keys().isdisjoint(EARLIER[3:4] + EARLIER[5:])

"""What fields of settings have in common: their help, and bounds that an error names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


def help_of(text: str) -> Mapping[str, str]:
    """The metadata of a dataclass field, for `hybrid describe`: `field(default=1, metadata=help_of("..."))`."""
    return {"help": text}


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval from `low` to `high`; `over` excludes `low`, `under` excludes `high`. NaN is always outside."""

    low: float
    high: float = math.inf
    over: bool = False
    under: bool = False

    def hold(self, value: float) -> bool:
        """Whether the number is inside the interval."""
        above = self.low < value if self.over else self.low <= value
        return math.isfinite(value) and above and (value < self.high if self.under else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"over {self.low:,}" if self.over else f"{self.low:,} or more"
        if self.over:
            return f"over {self.low:,} and {'under' if self.under else 'at most'} {self.high:,}"
        return f"{self.low:,} to {'under ' if self.under else ''}{self.high:,}"


SEED = Bounds(0, 2**32 - 1)
NOT_NEGATIVE = Bounds(0)
SHARE = Bounds(0, 1, over=True)


_NOTED: ContextVar[tuple[object, dict[str, Bounds]] | None] = ContextVar("noted bounds", default=None)


@contextmanager
def noted_bounds(settings: object) -> Iterator[dict[str, Bounds]]:
    """The bounds of this object's settings, by name, as they are checked in the block; not those of others."""
    found: dict[str, Bounds] = {}
    token = _NOTED.set((settings, found))
    try:
        yield found
    finally:
        _NOTED.reset(token)


def _note(settings: object, bounds: Mapping[str, Bounds]) -> None:
    of, noted = _NOTED.get() or (None, {})
    if settings is of:
        noted.update(bounds)


def refuse_outside(settings: object, **bounds: Bounds) -> None:
    """Raise ValueError for the first of these settings that is outside its bounds; None is not checked."""
    _note(settings, bounds)
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and not bound.hold(value):
            raise ValueError(f"{name}={value} is not {bound}")


def refuse_repeats(settings: object, *names: str) -> None:
    """Raise ValueError for the first of these settings that is empty, or has a value twice."""
    for name in names:
        values = getattr(settings, name)
        if not values:
            raise ValueError(f"{name} is empty: name one or more")
        if twice := [one for one in values if values.count(one) > 1]:
            raise ValueError(f"{name} names '{twice[0]!s:.200}' twice")


def refuse_each_outside(settings: object, **bounds: Bounds) -> None:
    """Raise ValueError for the first value of these settings of several values that is outside the setting's bounds."""
    _note(settings, bounds)
    for name, bound in bounds.items():
        if wrong := [one for one in getattr(settings, name) if not bound.hold(one)]:
            raise ValueError(f"{name}={wrong[0]} is not {bound}")

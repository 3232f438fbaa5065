"""Axes for any range of numbers: round ticks, and labels that tell neighbours apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

SMALLEST = 1e-100
"""Ranges below this are one value."""
SHORT = 6
"""Characters of a number that is never written with a power of ten."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, with ticks and their labels."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`; held inside."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def axis_of(values: Iterable[float], most: int = 6, *, whole: bool = False) -> Axis:
    """An axis over all finite `values` with at most about `most` ticks; `whole` for ticks that are whole numbers."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if whole and low == high:
        return Axis(low - 1, high + 1, ((low, label(Decimal(low))),))
    if high - low <= max(SMALLEST, 1e-12 * max(abs(low), abs(high))):
        room = 1.0 if abs(low) < SMALLEST else abs(low) * 0.1
        low, high = low - room, high + room
    step = _step(high - low, most, whole)
    first, last = math.floor(Decimal(low) / step), math.ceil(Decimal(high) / step)
    if whole:  # rounds begin and end where they do
        first, last = math.ceil(Decimal(low) / step), math.floor(Decimal(high) / step)
    else:
        low, high = float(first * step), float(last * step)
    marks = [number * step for number in range(first, last + 1)]
    return Axis(low, high, tuple(zip(map(float, marks), labels(marks), strict=True)))


def _step(room: float, most: int, whole: bool) -> Decimal:
    """The smallest of 1, 2, 5 times a power of ten that gives at most `most` steps."""
    power = math.floor(math.log10(room / most))
    for exponent in (power, power + 1):
        for times in (1, 2, 5):
            step = Decimal(times).scaleb(exponent)
            if step * most >= Decimal(room) and (not whole or step >= 1):
                return step
    return Decimal(1) if whole else Decimal(1).scaleb(power + 2)


def labels(values: Sequence[Decimal]) -> list[str]:
    """Numbers in plain digits, or all of them with a power of ten where that is shorter; with a true minus."""
    plain, power = [_plain(abs(value)) for value in values], [_power(abs(value)) for value in values]
    shown = plain if max(map(len, plain)) <= max(SHORT, *map(len, power)) else power
    return ["0" if not value else "−" * (value < 0) + said for value, said in zip(values, shown, strict=True)]


def label(value: Decimal) -> str:
    """One number as `labels` says it."""
    return labels([value])[0]


def _plain(value: Decimal) -> str:
    said = f"{value:f}"
    return said.rstrip("0").rstrip(".") if "." in said else said


def _power(value: Decimal) -> str:
    return f"{value.normalize():E}".replace("E+", "e").replace("E-", "e−").replace("E", "e")

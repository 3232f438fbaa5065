"""Axes for any range of numbers: ticks at round values, with labels that differ between neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

MIN_RANGE = 1e-100
"""A smaller range counts as a single value."""
MAX_PLAIN = 6
"""Most characters of a label that is always written in plain digits, without a power of ten."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from `low` to `high`; `ticks` are pairs of a value and its label."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """The position of a value: 0 at `low`, 1 at `high`, clipped to [0, 1]."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def axis_of(values: Iterable[float], max_ticks: int = 6, *, whole: bool = False) -> Axis:
    """An axis over all finite `values` with at most about `max_ticks` ticks; `whole` for ticks at integers only."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if whole and low == high:
        return Axis(low - 1, high + 1, ((low, label(Decimal(low))),))
    if high - low <= max(MIN_RANGE, 1e-12 * max(abs(low), abs(high))):
        margin = 1.0 if abs(low) < MIN_RANGE else abs(low) * 0.1
        low, high = low - margin, high + margin
    step = _step(high - low, max_ticks, whole)
    first, last = math.floor(Decimal(low) / step), math.ceil(Decimal(high) / step)
    if whole:  # the axis of rounds ends at its data, not at a tick
        first, last = math.ceil(Decimal(low) / step), math.floor(Decimal(high) / step)
    else:
        low, high = float(first * step), float(last * step)
    marks = [number * step for number in range(first, last + 1)]
    return Axis(low, high, tuple(zip(map(float, marks), labels(marks), strict=True)))


def _step(span: float, max_steps: int, whole: bool) -> Decimal:
    """The smallest of 1, 2, 5 times a power of ten that gives at most `max_steps` steps."""
    power = math.floor(math.log10(span / max_steps))
    for exponent in (power, power + 1):
        for times in (1, 2, 5):
            step = Decimal(times).scaleb(exponent)
            if step * max_steps >= Decimal(span) and (not whole or step >= 1):
                return step
    return Decimal(1) if whole else Decimal(1).scaleb(power + 2)


def labels(values: Sequence[Decimal]) -> list[str]:
    """Numbers in plain digits, or all with a power of ten where that is shorter; U+2212 for minus."""
    plain, power = [_plain(abs(value)) for value in values], [_power(abs(value)) for value in values]
    shown = plain if max(map(len, plain)) <= max(MAX_PLAIN, *map(len, power)) else power
    return ["0" if not value else "−" * (value < 0) + text for value, text in zip(values, shown, strict=True)]


def label(value: Decimal) -> str:
    """One number as `labels` writes it."""
    return labels([value])[0]


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _power(value: Decimal) -> str:
    return f"{value.normalize():E}".replace("E+", "e").replace("E-", "e−").replace("E", "e")

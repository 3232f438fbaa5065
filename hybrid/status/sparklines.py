"""Values over time as a line of characters, for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hybrid.machine.usage import Usage

LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.-:=+*#"


def sparkline(values: Sequence[float | None], top: float, *, only_ascii: bool = False) -> str:
    """A character for each value, from 0 to `top`; a space where there is none."""
    levels = ASCII_LEVELS if only_ascii else LEVELS
    highest = len(levels) - 1
    shares = [None if one is None else min(1.0, max(0.0, one / top)) if top > 0 else 0.0 for one in values]
    return "".join(" " if one is None else levels[round(one * highest)] for one in shares)


def recent(usage: Usage, name: str, count: int) -> list[float | None]:
    """The means of a metric in the last `count` periods; None for those without a value."""
    known = {round(at / usage.period): mean for at, mean in zip(usage.at, usage.means.get(name, ()), strict=False)}
    last = round(usage.at[-1] / usage.period) if usage.at else 0
    return [known.get(number) for number in range(max(0, last - count + 1), last + 1)]


class Trend:
    """How many items were done in each minute since somebody began to look."""

    def __init__(self, most: int = 60) -> None:
        self._most = most
        self._done: dict[int, int] = {}  # minute -> how many items were done by its end, as far as was looked

    def add(self, seconds: float, done: int) -> None:
        """`done` items are done, `seconds` after the first look."""
        self._done[int(seconds // 60)] = done
        while len(self._done) > self._most + 1:
            del self._done[min(self._done)]

    def per_minute(self) -> list[float]:
        """Items a minute, in every minute from the second on; over a gap they are spread evenly."""
        minutes = sorted(self._done)
        rates: list[float] = []
        for before, minute in itertools.pairwise(minutes):
            rate = max(0, self._done[minute] - self._done[before]) / (minute - before)
            rates += [rate] * (minute - before)
        return rates[-self._most :]

"""The load of a machine over time, minute by minute: what a worker reports, in bounded size, and how it is read.

Of every period the mean and the highest value are kept. When there are too many periods, each two neighbours become
one of twice the length, so a report of a minute and one of a week have about the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.canonical import Json

PERIOD = 60.0
"""Seconds of a period at first."""
MAX_PERIODS = 240
"""Most periods of a report; a reader takes no more either."""
LONGEST_STEP = 60.0
"""Seconds between two samples beyond which the energy between them is not counted: the machine was asleep."""

METRICS: Mapping[str, str] = {
    "gpu_busy": "GPU utilization, %",
    "power": "GPU power, W",
    "gpu_memory": "GPU memory, MiB",
    "cpu": "CPU, % of one core",
    "memory": "memory of the process, MiB",
}
"""Name of a metric -> what it is, with its unit."""

Sample = Mapping[str, float | None]
"""Metric -> its value at one moment; None or absent when it is unknown."""


@dataclass(slots=True)
class _Mean:
    count: int = 0
    total: float = 0.0
    highest: float = 0.0

    def add(self, count: int, total: float, highest: float) -> None:
        self.count, self.total, self.highest = self.count + count, self.total + total, max(self.highest, highest)


class UsageLog:
    """Gathers the samples of one machine. `gpus` and `gpu_memory_total` (MiB) describe it."""

    def __init__(self) -> None:
        self.period = PERIOD
        self.gpus: int | None = None
        self.gpu_memory_total: float | None = None
        self.energy: float | None = None  # watt-hours of the GPUs
        self._periods: dict[int, dict[str, _Mean]] = {}

    def add(self, at: float, sample: Sample, seconds: float) -> None:
        """Count a sample `at` seconds since the beginning, which stands for the last `seconds`."""
        means = self._periods.setdefault(int(at // self.period), {})
        for name, value in sample.items():
            if value is not None:
                means.setdefault(name, _Mean()).add(1, value, value)
        if (power := sample.get("power")) is not None and 0 <= seconds <= LONGEST_STEP:
            self.energy = (self.energy or 0.0) + power * seconds / 3600
        while len(self._periods) > MAX_PERIODS:
            self._merge()

    def _merge(self) -> None:
        merged: dict[int, dict[str, _Mean]] = {}
        for number, means in self._periods.items():
            into = merged.setdefault(number // 2, {})
            for name, mean in means.items():
                into.setdefault(name, _Mean()).add(mean.count, mean.total, mean.highest)
        self._periods, self.period = merged, 2 * self.period

    def to_json(self) -> dict[str, Json]:
        """The report: `at` counts periods of `period` seconds; the lists of a metric have a value for each of them."""
        numbers = sorted(self._periods)
        metrics: dict[str, Json] = {}
        for name in METRICS:
            known = [self._periods[number].get(name) for number in numbers]
            if any(known):
                means: list[Json] = [round(one.total / one.count, 1) if one else None for one in known]
                metrics[name] = {"mean": means, "max": [round(one.highest, 1) if one else None for one in known]}
        energy = None if self.energy is None else round(self.energy, 3)
        about: dict[str, Json] = {"gpus": self.gpus, "gpu_memory_total": self.gpu_memory_total, "energy_wh": energy}
        return {"period": self.period, "at": [*numbers], **about, "metrics": metrics}


@dataclass(frozen=True, slots=True)
class Usage:
    """A report as it was read. `at` are seconds since the beginning; of each metric, `means` and `highest` have a value
    for each of them, None where it is unknown.
    """

    period: float
    at: Sequence[float]
    means: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    highest: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    gpus: float | None = None
    gpu_memory_total: float | None = None
    energy_wh: float | None = None

    @classmethod
    def from_json(cls, value: object) -> Usage | None:
        """The report in untrusted JSON; None when it is none. What has the wrong type or size is left out."""
        if not isinstance(value, dict) or not isinstance(value.get("at"), list):
            return None
        period, numbers = quantity(value.get("period")), [quantity(one) for one in value["at"][-MAX_PERIODS:]]
        if not period or None in numbers:
            return None
        at = [(number or 0.0) * period for number in numbers]
        if at != sorted(set(at)):
            return None
        columns = {name: _columns(value.get("metrics"), name, len(value["at"])) for name in METRICS}
        known = {name: both for name, both in columns.items() if both}
        return cls(
            period,
            at,
            {name: both[0] for name, both in known.items()},
            {name: both[1] for name, both in known.items()},
            *(quantity(value.get(name)) for name in ("gpus", "gpu_memory_total", "energy_wh")),
        )

    def to_json(self) -> dict[str, Json]:
        """The report as it was written, without what was left out."""
        columns = {name: {"mean": [*self.means[name]], "max": [*self.highest[name]]} for name in self.means}
        about = {"gpus": self.gpus, "gpu_memory_total": self.gpu_memory_total, "energy_wh": self.energy_wh}
        return {"period": self.period, "at": [round(one / self.period) for one in self.at], **about, "metrics": columns}

    def last(self, name: str) -> float | None:
        """The mean of a metric in the last period in which it is known."""
        return next((one for one in reversed(self.means.get(name, ())) if one is not None), None)


def quantity(value: object) -> float | None:
    """A number in [0, 1e15); None for anything else, NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < 1e15 and math.isfinite(value) else None


def watt_hours(energy: float) -> str:
    """`1.4 Wh`, `420 Wh`, `1.42 kWh`."""
    return f"{energy / 1000:,.2f} kWh" if energy >= 1000 else f"{energy:.0f} Wh" if energy >= 10 else f"{energy:.1f} Wh"


def _columns(metrics: object, name: str, length: int) -> tuple[list[float | None], list[float | None]] | None:
    """The means and the highest values of a metric; None when it is not there, or not of this length."""
    column: Any = metrics.get(name) if isinstance(metrics, dict) else None
    if not isinstance(column, dict):
        return None
    lists = [column.get(part) for part in ("mean", "max")]
    if not all(isinstance(one, list) and len(one) == length for one in lists):
        return None
    means, highest = ([quantity(value) for value in one[-MAX_PERIODS:]] for one in lists if one is not None)
    return means, highest

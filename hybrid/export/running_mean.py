"""A mean and its standard error over a stream, as inspect and lm-eval compute them: values taken as independent."""

from __future__ import annotations

import math


class RunningMean:
    """Mean and standard error of the values added so far (Welford 1962)."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = self._squares = 0.0

    def add(self, value: float) -> None:
        """Add one value."""
        self.n += 1
        off = value - self._mean
        self._mean += off / self.n
        self._squares += off * (value - self._mean)

    @property
    def mean(self) -> float | None:
        """None without values."""
        return round(self._mean, 12) if self.n else None

    @property
    def stderr(self) -> float | None:
        """The sample's standard deviation over the root of n; None with fewer than two values."""
        return round(math.sqrt(self._squares / (self.n - 1) / self.n), 12) if self.n > 1 else None

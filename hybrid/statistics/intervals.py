"""95 % intervals of proportions and of paired differences, clustered by task, computed from running sums.

Wilson's score interval (Wilson 1927) with an effective sample size: the number of values divided by the design effect
of the cluster-robust variance (Kish 1965), shrunk for few clusters by (z / t)^2 (Korn and Graubard 1998). Values of one
cluster come one after another; only running sums are kept, so memory is constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""

Interval = tuple[float, float]

_ROUNDING = 1e-12  # a relatively smaller residual is rounding error and counts as zero


class PairedDifference(NamedTuple):
    """A mean paired difference and its 95 % interval, in the units of the values; all zero when `n` is 0."""

    mean: float
    low: float
    high: float
    n: int


class ClusteredMean:
    """The mean of clustered values, and the running sums for its variance."""

    def __init__(self) -> None:
        self.n = 0
        self.clusters = 0
        self.total = 0.0
        self._name: str | None = None
        self._size = 0  # of the open cluster: how many values, and their sum
        self._sum = 0.0
        self._sizes = 0.0  # over closed clusters: sum of size^2, size * sum, sum^2
        self._mixed = 0.0
        self._sums = 0.0

    def add(self, cluster: str, value: float) -> None:
        """Add one value. All values of a cluster must come one after another."""
        if cluster != self._name:
            self._close()
            self._name = cluster
            self.clusters += 1
        self.n += 1
        self.total += value
        self._size += 1
        self._sum += value

    def add_cluster(self, size: int, total: float) -> None:
        """Add a whole cluster of `size` > 0 values with the sum `total`; faster than one by one."""
        self._close()
        self._name = None
        self.clusters += 1
        self.n += size
        self.total += total
        self._size, self._sum = size, total

    def _close(self) -> None:
        self._sizes += self._size * self._size
        self._mixed += self._size * self._sum
        self._sums += self._sum * self._sum
        self._size, self._sum = 0, 0.0

    @property
    def mean(self) -> float | None:
        """The mean of all values; None without values."""
        return round(self.total / self.n, 12) if self.n else None  # further digits are rounding error

    def variance(self) -> float:
        """Cluster-robust variance of the mean (factor G / (G - 1) for G clusters); 0 with fewer than two clusters."""
        if self.clusters < 2:
            return 0.0
        mean = self.total / self.n
        sizes = self._sizes + self._size * self._size
        mixed = self._mixed + self._size * self._sum
        sums = self._sums + self._sum * self._sum
        residual = sums - 2 * mean * mixed + mean * mean * sizes
        if residual <= _ROUNDING * max(sums, mean * mean * sizes):
            return 0.0
        return residual * self.clusters / (self.clusters - 1) / (self.n * self.n)

    def effective_size(self) -> float:
        """The effective sample size: at most `n`; the number of clusters when the variance is 0."""
        if self.clusters == self.n:
            return float(self.n)
        variance = self.variance()
        if variance == 0.0:
            return float(self.clusters)
        mean = self.total / self.n
        size = min(float(self.n), mean * (1 - mean) / variance)
        return max(1.0, size * (Z / student_quantile(self.clusters - 1)) ** 2)

    def interval(self) -> Interval | None:
        """Wilson's interval of the mean of values in [0, 1]; None without values."""
        return wilson(self.total / self.n, self.effective_size()) if self.n else None

    def unbounded_interval(self) -> Interval | None:
        """Student's t interval of the mean of values of any size; None when they show no variance."""
        variance = self.variance()
        if not variance:
            return None
        half = student_quantile(self.clusters - 1) * math.sqrt(variance)
        mean = self.total / self.n
        return mean - half, mean + half


def wilson(share: float, n: float) -> Interval:
    """Wilson's 95 % score interval of a proportion `share` in [0, 1] with the (effective) sample size `n` > 0."""
    if not (0.0 <= share <= 1.0 and n > 0):
        raise ValueError(f"a share in [0, 1] of a positive number, got {share!r} of {n!r}")
    spread = Z * Z / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if share == 0.0 else max(0.0, middle - half)
    high = 1.0 if share == 1.0 else min(1.0, middle + half)
    return low, high


def paired_difference(pairs: Iterable[tuple[str, float, float]]) -> PairedDifference:
    """The `difference` of `b - a` over `(cluster, a, b)`, values in [0, 1]."""
    differences = ClusteredMean()
    for cluster, first, second in pairs:
        differences.add(cluster, second - first)
    return difference(differences)


def difference(differences: ClusteredMean) -> PairedDifference:
    """The mean of differences in [-1, 1] with its clustered 95 % interval.

    Student's t with G - 1 degrees of freedom for G clusters. When all clusters agree there is no variance to estimate:
    the half width is then the upper end of Wilson's interval for 0 of G.
    """
    if not differences.n:
        return PairedDifference(0.0, 0.0, 0.0, 0)
    mean = differences.total / differences.n
    variance = differences.variance()
    half = wilson(0.0, differences.clusters)[1]
    if variance:
        half = student_quantile(differences.clusters - 1) * math.sqrt(variance)
    return PairedDifference(mean, max(-1.0, mean - half), min(1.0, mean + half), differences.n)


@lru_cache(maxsize=1024)
def student_quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t with `freedom` >= 1 degrees of freedom."""
    if freedom > 10_000:
        return Z + (Z**3 + Z) / (4 * freedom)  # first term of the expansion: off by less than 1e-7 here
    low, high = 1.0, 13.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def student_within(t: float, freedom: int) -> float:
    """The probability that |T| <= t (Abramowitz and Stegun 26.7.3 and 26.7.4: a finite sum)."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, freedom, 2):
        term *= square * (k - 1) / k
        total += term
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share

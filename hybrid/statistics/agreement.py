"""Agreement of verdicts beyond chance: Cohen's kappa with an interval, and Krippendorff's alpha, from counts.

Cohen 1960; Krippendorff 2011, "Computing Krippendorff's alpha-reliability", for two values. The interval of kappa, and
of a difference of two kappas on the same rows, is the delete-one-cluster jackknife (Efron and Stein 1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

from hybrid.statistics.intervals import student_quantile, wilson

ROUNDING = 1e-9
"""A smaller standard error counts as zero."""


class ConfusionTable(NamedTuple):
    """The confusion matrix of verdicts against the truth."""

    true_right: float = 0  # called right, and right
    false_right: float = 0
    false_wrong: float = 0
    true_wrong: float = 0

    @property
    def n(self) -> float:
        return sum(self)

    def plus(self, other: ConfusionTable, times: int = 1) -> ConfusionTable:
        """The sum of both tables; `times` = -1 subtracts `other`."""
        return ConfusionTable(*(mine + times * its for mine, its in zip(self, other, strict=True)))

    @classmethod
    def of(cls, verdict: bool, truth: bool) -> ConfusionTable:
        """The table of a single row."""
        return cls(verdict and truth, verdict and not truth, truth and not verdict, not (verdict or truth))


@dataclass(frozen=True, slots=True)
class Crosstab:
    """How often each of `size` ordered labels was said of rows of each: `counts`, by what was said, then by truth."""

    size: int
    counts: tuple[int, ...]

    @classmethod
    def empty(cls, size: int) -> Crosstab:
        return cls(size, (0,) * size**2)

    @classmethod
    def of(cls, size: int, said: int, truth: int) -> Crosstab:
        """The table of a single row."""
        return cls(size, tuple(int(place == said * size + truth) for place in range(size**2)))

    @property
    def n(self) -> int:
        return sum(self.counts)

    @property
    def agreed(self) -> int:
        """Rows of which the truth was said."""
        return sum(self.counts[:: self.size + 1])

    def plus(self, other: Crosstab, times: int = 1) -> Crosstab:
        """The sum of both tables; `times` = -1 subtracts `other`."""
        pairs = zip(self.counts, other.counts, strict=True)
        return Crosstab(self.size, tuple(mine + times * its for mine, its in pairs))

    def cells(self) -> Iterator[tuple[int, int, int]]:
        """What was said, the truth, and how often."""
        return ((*divmod(place, self.size), count) for place, count in enumerate(self.counts))


class Summable(Protocol):
    """A table of counts."""

    def plus(self, other: Self, times: int = 1) -> Self:
        """The sum of both tables; `times` = -1 subtracts `other`."""
        ...


S = TypeVar("S", bound=Summable)


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy(table: ConfusionTable) -> float:
    """The share of rows on which verdict and truth agree. `table` must have rows."""
    return (table.true_right + table.true_wrong) / table.n


def kappa(table: ConfusionTable) -> float:
    """Cohen's kappa; 0 when verdict and truth are both constant, since agreement is then expected by chance."""
    right, truth = table.true_right + table.false_right, table.true_right + table.false_wrong
    chance = (right * truth + (table.n - right) * (table.n - truth)) / table.n**2
    return 0.0 if chance >= 1 - 1e-12 else (accuracy(table) - chance) / (1 - chance)


def label_kappa(table: Crosstab, *, weighted: bool) -> float:
    """Cohen's kappa of any number of labels, `weighted` by the square of their distance (Cohen 1968).

    0 when all labels are the same, since agreement is then expected by chance.
    """
    said, truth = [0] * table.size, [0] * table.size
    for one, other, count in table.cells():
        said[one] += count
        truth[other] += count
    found = expected = 0
    for one, other, count in table.cells():
        apart = (one - other) ** 2 if weighted else int(one != other)
        found += apart * count
        expected += apart * said[one] * truth[other]
    return 1 - found * table.n / expected if expected else 0.0


def estimate(clusters: Mapping[str, Sequence[S]], measure: Callable[[Sequence[S]], float]) -> Estimate:
    """`measure` of the summed tables, with its delete-one-cluster jackknife interval. Needs at least one row.

    Each cluster has one table per judge; `measure` gets the sums in the same order. With one cluster the variance is
    unknown and the interval is -1 to 1. When all jackknife values are equal there is no variance to estimate: the half
    width is then the upper end of Wilson's interval for 0 of as many values as there are clusters.
    """
    total = _sums(clusters.values())
    value, g = measure(total), len(clusters)
    if g < 2:
        return Estimate(value, -1.0, 1.0)
    left = [measure([all_.plus(one, -1) for all_, one in zip(total, own, strict=True)]) for own in clusters.values()]
    middle = math.fsum(left) / g
    spread = math.sqrt((g - 1) / g * math.fsum((one - middle) ** 2 for one in left))
    half = student_quantile(g - 1) * spread if spread > ROUNDING else wilson(0.0, g)[1]
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half))


def _sums(rows: Iterable[Sequence[S]]) -> list[S]:
    total: list[S] = []
    for row in rows:
        total = [all_.plus(one) for all_, one in zip(total, row, strict=True)] if total else list(row)
    return total


class KrippendorffAlpha:
    """Krippendorff's alpha of votes that are whole numbers, as a stream. Rows with fewer than two votes do not count.

    Votes differ by the square of their distance (the interval metric), so that of two values it is the nominal alpha.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._n = self._sum = self._squares = 0
        self._unlike = 0.0

    def add(self, votes: Sequence[int]) -> None:
        """Add the votes on one row."""
        if len(votes) < 2:
            return
        total, squares = sum(votes), sum(vote * vote for vote in votes)
        self.rows += 1
        self._n += len(votes)
        self._sum += total
        self._squares += squares
        self._unlike += 2 * (len(votes) * squares - total * total) / (len(votes) - 1)

    @property
    def value(self) -> float | None:
        """KrippendorffAlpha; None when it is undefined: no row with two votes, or all votes equal."""
        expected = 2 * (self._n * self._squares - self._sum * self._sum)
        return 1 - (self._n - 1) * self._unlike / expected if expected else None

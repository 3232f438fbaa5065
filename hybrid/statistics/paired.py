"""Paired comparisons of two methods over seeds: Student's t, Wilcoxon's signed ranks, bootstrap, Cohen's d.

Few pairs show little, and what they cannot show is None: with three pairs the signed-rank test cannot go below
p = 0.25, and a percentile bootstrap interval would hold the true difference far less often than it claims.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from hybrid.statistics.intervals import Interval, student_quantile, student_within

FEWEST = 6
"""Pairs from which on there is a bootstrap interval, and from which on the signed-rank test can give p < 0.05."""
DRAWS = 10_000
"""Resamples of a bootstrap interval."""
MOST_EXACT = 50
"""Non-zero differences up to which the distribution of the signed-rank sum is computed; beyond it is approximated."""
ROUNDING = 1e-12
"""A standard deviation relatively smaller than this is rounding error and counts as zero."""


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Differences `second - first` of `n` pairs, in the units of the values.

    `interval` is the 95 % interval of Student's t with n - 1 degrees of freedom, `bootstrap` that of the percentile
    bootstrap. `t_p` and `wilcoxon_p` are two-sided. `cohens_d` is the mean over the standard deviation of the
    differences. None is what cannot be known: of one pair, of differences that are all equal, or of too few pairs.
    """

    n: int
    mean: float
    interval: Interval | None
    bootstrap: Interval | None
    t: float | None
    t_p: float | None
    wilcoxon_p: float | None
    cohens_d: float | None

    @property
    def least_wilcoxon_p(self) -> float:
        """The smallest p that the signed-rank test can give for so many pairs."""
        return min(1.0, 2.0 ** (1 - self.n))

    @property
    def caveat(self) -> str:
        """What so few or such equal pairs cannot show; "" where nothing is to be said."""
        if self.n < 2:
            return "one pair: no test and no interval"
        if self.interval is None:
            return "all differences are equal: their spread is not known"
        if self.n < FEWEST:
            return (
                f"{self.n} pairs: the signed-rank test cannot go below p = {self.least_wilcoxon_p:.3g}, "
                "and there is no bootstrap interval"
            )
        return ""


def compared(pairs: Sequence[tuple[float, float]], *, seed: int = 0) -> PairedComparison:
    """Compare the pairs (first, second); `seed` is that of the bootstrap. Raises ValueError without pairs."""
    if not pairs:
        raise ValueError("a paired comparison needs a pair")
    differences = [round(second - first, 12) for first, second in pairs]  # further digits would undo ties
    n, mean = len(differences), math.fsum(differences) / len(differences)
    spread = statistics.stdev(differences) if n > 1 else 0.0
    if spread <= ROUNDING * max(abs(value) for pair in pairs for value in pair):
        known = n > 1
        return PairedComparison(n, mean, None, None, None, None, signed_ranks_p(differences) if known else None, None)
    error = spread / math.sqrt(n)
    half, t = student_quantile(n - 1) * error, mean / error
    p = max(0.0, 1.0 - student_within(abs(t), n - 1))
    drawn = bootstrap(differences, seed=seed) if n >= FEWEST else None
    return PairedComparison(
        n, mean, (mean - half, mean + half), drawn, t, p, signed_ranks_p(differences), mean / spread
    )


def signed_ranks_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (1945); zeros are left out, ties share their mean rank.

    Exact for up to 50 non-zero differences, with ties too; beyond, the normal approximation with correction for ties.
    """
    known = sorted((one for one in differences if one), key=abs)
    if not known:
        return 1.0
    doubled: list[int] = []  # twice the ranks: whole numbers also where ties share a rank
    ties = 0
    for _, tied in groupby(known, key=abs):
        size = len(list(tied))
        doubled += [2 * len(doubled) + size + 1] * size
        ties += size**3 - size
    total = sum(rank for rank, one in zip(doubled, known, strict=True) if one > 0)
    low = min(total, sum(doubled) - total)
    if len(known) <= MOST_EXACT:
        return min(1.0, 2 * _share_up_to(low, doubled))
    n = len(known)
    deviation = math.sqrt((n * (n + 1) * (2 * n + 1) - ties / 2) / 24)
    return math.erfc(abs(low / 2 - n * (n + 1) / 4) / deviation / math.sqrt(2))


def _share_up_to(most: int, ranks: Sequence[int]) -> float:
    """The share of all choices of signs for which the ranks with a plus add up to at most `most`."""
    ways = [1] + [0] * most
    for rank in ranks:
        for total in range(most, rank - 1, -1):
            ways[total] += ways[total - rank]
    return sum(ways) / (1 << len(ranks))


def bootstrap(values: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The 95 % percentile bootstrap interval of the mean (Efron 1979). The same values and seed give the same."""
    draw, n = random.Random(seed), len(values)
    means = sorted(math.fsum(draw.choices(values, k=n)) / n for _ in range(draws))
    return means[int(0.025 * (draws - 1))], means[math.ceil(0.975 * (draws - 1))]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for as many comparisons (Holm 1979), in the order given."""
    corrected, most = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = most
    return corrected

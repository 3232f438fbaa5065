"""Paired comparisons: scipy as the oracle, enumeration where scipy approximates, and what few pairs cannot show."""

from __future__ import annotations

import itertools
import random

import pytest

from hybrid.statistics.paired import bootstrap, compared, holm, signed_ranks_p


def drawn(n: int, seed: int, shift: float = 0.02) -> list[tuple[float, float]]:
    draw = random.Random(seed)
    first = [draw.uniform(0.5, 0.9) for _ in range(n)]
    return [(one, one + draw.gauss(shift, 0.03)) for one in first]


@pytest.mark.parametrize("n", [2, 3, 5, 8, 20, 60])
def test_tests_and_interval_are_those_of_scipy(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        pairs = drawn(n, seed)
        found = compared(pairs)
        theirs = stats.ttest_rel([second for _, second in pairs], [first for first, _ in pairs])
        assert (found.t, found.t_p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue, abs=1e-9))
        assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
        ranks = stats.wilcoxon([second - first for first, second in pairs], correction=False)
        assert found.wilcoxon_p == pytest.approx(ranks.pvalue)


def enumerated(differences: list[float]) -> float:
    """Two-sided p of the signed-rank sum over all choices of signs."""
    known = [one for one in differences if one]
    sizes = sorted(map(abs, known))
    ranks = [(sizes.index(abs(one)) + len(sizes) - sizes[::-1].index(abs(one)) + 1) / 2 for one in known]
    plus = sum(rank for rank, one in zip(ranks, known, strict=True) if one > 0)
    low = min(plus, sum(ranks) - plus)
    sums = [sum(chosen) for size in range(len(ranks) + 1) for chosen in itertools.combinations(ranks, size)]
    return min(1.0, 2 * sum(one <= low for one in sums) / len(sums))


def test_ties_and_zeros_are_exact() -> None:
    draw = random.Random(3)
    for n in range(1, 11):
        differences = [float(draw.randint(-3, 3)) for _ in range(n)]
        if any(differences):
            assert signed_ranks_p(differences) == pytest.approx(enumerated(differences)), differences
    assert signed_ranks_p([0.0, 0.0]) == 1.0


def test_three_seeds_cannot_show_much_and_say_so() -> None:
    found = compared([(0.70, 0.80), (0.71, 0.82), (0.69, 0.80)])
    assert found.wilcoxon_p == found.least_wilcoxon_p == 0.25
    assert found.bootstrap is None
    assert "cannot go below p = 0.25" in found.caveat
    assert found.interval
    assert found.interval[0] > 0  # a difference this even is seen by the t test
    wide = compared([(0.70, 0.80), (0.71, 0.72), (0.69, 0.70)])
    assert wide.interval
    assert wide.interval[0] < 0 < wide.interval[1]


def test_one_pair_and_equal_differences_have_no_interval_and_no_t() -> None:
    one = compared([(0.7, 0.8)])
    assert (one.n, one.interval, one.t_p, one.wilcoxon_p, one.cohens_d) == (1, None, None, None, None)
    assert one.caveat == "one pair: no test and no interval"
    equal = compared([(0.7, 0.8), (0.1, 0.2), (0.5, 0.6)])
    assert (equal.mean, equal.interval, equal.t) == (pytest.approx(0.1), None, None)
    assert "all differences are equal" in equal.caveat
    with pytest.raises(ValueError, match="needs a pair"):
        compared([])


def test_bootstrap_is_near_the_t_interval_of_many_pairs_and_the_same_every_time() -> None:
    pairs = drawn(40, 1)
    found = compared(pairs)
    assert found == compared(pairs)
    assert found.interval
    assert found.bootstrap == pytest.approx(found.interval, abs=0.002)
    assert bootstrap([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert found.caveat == ""


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own procedure
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []

"""Intervals: known table values, published properties, and scipy where it is installed."""

from __future__ import annotations

import importlib.util
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.statistics.intervals import ClusteredMean, paired_difference, student_quantile, wilson


def counted(values: list[tuple[str, float]]) -> ClusteredMean:
    sums = ClusteredMean()
    for cluster, value in values:
        sums.add(cluster, value)
    return sums


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3; and 29/40
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 40, 0.5717, 0.8389),
    ],
)
def test_wilson_gives_the_published_values(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right / n, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("freedom", "point"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_student_gives_the_values_of_the_tables(freedom: int, point: float) -> None:
    assert student_quantile(freedom) == pytest.approx(point, abs=5e-4)


def test_student_falls_to_the_normal_point_without_a_step() -> None:
    points = [student_quantile(freedom) for freedom in (1, 2, 5, 50, 999, 9_999, 10_000, 10_001, 10_002, 10**9)]
    assert points == sorted(points, reverse=True)
    assert points[-1] == pytest.approx(1.959964, abs=1e-6)


def test_wilson_and_student_agree_with_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        pytest.skip("needs scipy: not installed here; the tables above are tested everywhere")
    import scipy.stats

    for n in (1, 7, 40, 1000):
        for right in {0, 1, n // 3, n}:
            theirs = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
            assert wilson(right / n, n) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    for freedom in (1, 2, 3, 17, 200, 9_999, 20_000):
        assert student_quantile(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-7)


@given(st.integers(1, 5000), st.data())
def test_wilson_is_monotone_and_holds_its_share(n: int, data: Any) -> None:
    right = data.draw(st.integers(0, n - 1))
    low, high = wilson(right / n, n)
    next_low, next_high = wilson((right + 1) / n, n)
    assert 0.0 <= low <= right / n <= high <= 1.0
    assert (next_low, next_high) > (low, high)
    assert next_low >= low
    assert next_high >= high
    mirrored = wilson((n - right) / n, n)
    assert mirrored == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))


@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(1.01, 100))
def test_more_values_give_a_narrower_interval(share: float, n: float, factor: float) -> None:
    low, high = wilson(share, n)
    more_low, more_high = wilson(share, n * factor)
    assert more_high - more_low < high - low


@pytest.mark.parametrize(("share", "n"), [(-0.1, 5), (1.1, 5), (0.5, 0), (math.nan, 5), (0.5, math.nan)])
def test_wilson_refuses_what_is_no_share(share: float, n: float) -> None:
    with pytest.raises(ValueError, match="a share in"):
        wilson(share, n)


def test_values_that_stand_alone_get_the_plain_interval() -> None:
    sums = counted([(str(n), float(n < 29)) for n in range(40)])
    assert sums.interval() == wilson(29 / 40, 40)


def test_no_values_give_no_interval() -> None:
    assert ClusteredMean().interval() is None
    assert ClusteredMean().mean is None


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=2, max_size=12))
def test_the_streamed_variance_is_the_textbook_one(clusters: list[list[float]]) -> None:
    sums = counted([(str(number), value) for number, cluster in enumerate(clusters) for value in cluster])
    values = [value for cluster in clusters for value in cluster]
    mean = sum(values) / len(values)
    squares = sum(sum(value - mean for value in cluster) ** 2 for cluster in clusters)
    expected = len(clusters) / (len(clusters) - 1) * squares / len(values) ** 2
    assert sums.variance() == pytest.approx(expected, rel=1e-6, abs=1e-10)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=5), max_size=8))
def test_clusters_counted_whole_are_those_counted_value_by_value(clusters: list[list[float]]) -> None:
    whole, single = ClusteredMean(), ClusteredMean()
    for number, values in enumerate(clusters):
        whole.add_cluster(len(values), sum(values))
        for value in values:
            single.add(str(number), value)
    assert (whole.n, whole.clusters, whole.mean) == (single.n, single.clusters, single.mean)
    assert (whole.variance(), whole.interval()) == (single.variance(), single.interval())


def test_repeats_of_one_value_count_as_one_value() -> None:
    single = counted([(str(n), float(n % 2)) for n in range(50)])
    tenfold = counted([(str(n), float(n % 2)) for n in range(50) for _ in range(10)])
    assert tenfold.effective_size() == pytest.approx(single.n, rel=0.08)  # (z / t)^2 and G / (G - 1) make it less
    assert tenfold.effective_size() <= single.n


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clusters_that_all_agree_count_as_one_value_each(value: float) -> None:
    sums = counted([(str(n // 10), value) for n in range(70)])
    assert sums.effective_size() == 7
    assert sums.interval() == wilson(value, 7)


def test_a_single_cluster_is_one_value() -> None:
    assert counted([("a", 1.0), ("a", 0.0), ("a", 1.0)]).interval() == wilson(2 / 3, 1)


def test_the_clustered_interval_covers_the_truth_where_the_plain_one_does_not() -> None:
    rng = random.Random(1)
    clustered = plain = 0
    for _ in range(400):
        sums = ClusteredMean()
        for cluster in range(20):
            share = rng.betavariate(0.5, 0.5)  # mean 0.5, values of a cluster much alike
            for _ in range(10):
                sums.add(str(cluster), float(rng.random() < share))
        low, high = sums.interval() or (0, 0)
        clustered += low <= 0.5 <= high
        low, high = wilson(sums.mean or 0, sums.n)
        plain += low <= 0.5 <= high
    assert clustered >= 0.92 * 400
    assert plain < 0.8 * 400


def test_the_paired_difference_is_the_t_interval_of_the_tasks() -> None:
    differences = [0.5, -0.25, 1.0, 0.0, 0.25]
    found = paired_difference((str(number), 0.0, value) for number, value in enumerate(differences))
    mean = sum(differences) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in differences) / 4)
    half = 2.7764451 * deviation / math.sqrt(5)
    assert found == (pytest.approx(mean), pytest.approx(mean - half), pytest.approx(mean + half), 5)


def test_turning_the_pairs_round_turns_the_difference_round() -> None:
    rng = random.Random(2)
    pairs = [(str(n // 3), float(rng.random() < 0.4), float(rng.random() < 0.6)) for n in range(60)]
    forth = paired_difference(pairs)
    back = paired_difference([(task, second, first) for task, first, second in pairs])
    assert back == (pytest.approx(-forth.mean), pytest.approx(-forth.high), pytest.approx(-forth.low), 60)


def test_equal_runs_differ_by_nothing_but_not_for_certain() -> None:
    found = paired_difference((str(n), 1.0, 1.0) for n in range(10))
    assert found.mean == 0
    assert found.low == -found.high == pytest.approx(-wilson(0, 10)[1])


def test_one_pair_leaves_everything_open_that_one_value_leaves_open() -> None:
    found = paired_difference([("a", 0.0, 1.0)])
    assert found.mean == 1
    assert found.low < 0.25
    assert found.high == 1


def test_no_pairs_are_no_difference() -> None:
    assert paired_difference([]) == (0, 0, 0, 0)

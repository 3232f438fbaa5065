"""Ranks and their correlation, against scipy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.statistics.ranks import rank_correlation, ranks

NUMBERS = st.one_of(st.integers(-5, 5).map(float), st.floats(-1e6, 1e6))


@pytest.fixture(scope="module")
def stats() -> Any:
    return pytest.importorskip("scipy.stats")


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=40))
def test_ranks_and_their_correlation_are_those_of_scipy(stats: Any, pairs: list[tuple[float, float]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    assert ranks(first) == list(stats.rankdata(first))
    rho = rank_correlation(first, second)
    if len(set(first)) < 2 or len(set(second)) < 2:
        assert rho is None
    else:
        assert rho == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)

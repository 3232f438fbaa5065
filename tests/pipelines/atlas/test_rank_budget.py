"""Ranks under a budget of bytes, held to all choices that there are."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.atlas.rank_budget import BudgetTooSmall, allocate, held_bytes, rank_bytes, value_of

CANDIDATES = (1, 2, 4, 8)
IMPORTANCE = st.lists(st.floats(0.01, 10.0), min_size=3, max_size=3)


def best(
    layers: dict[str, tuple[int, int]], importance: dict[str, float], budget: int, steps: tuple[int, ...]
) -> float:
    """The highest value of all choices within the budget."""
    choices = (dict(zip(layers, ranks, strict=True)) for ranks in product(steps, repeat=len(layers)))
    return max(
        value_of(ranks, importance)
        for ranks in choices
        if sum(rank * rank_bytes(*layers[name]) for name, rank in ranks.items()) <= budget
    )


@settings(deadline=None, max_examples=60)
@given(IMPORTANCE, st.floats(0.0, 1.0), st.booleans())
def test_greedy_ranks_are_the_best_for_equal_steps_and_within_one_step_otherwise(
    weights: list[float], share: float, equal: bool
) -> None:
    widths = [(16, 16)] * 3 if equal else [(16, 16), (16, 64), (9, 20)]
    steps = (1, 2, 3, 4) if equal else CANDIDATES
    layers = dict(zip("abc", widths, strict=True))
    importance = dict(zip("abc", weights, strict=True))
    least, most = (sum(rank * rank_bytes(*one) for one in widths) for rank in (1, max(steps)))
    budget = int(least + share * (most - least))
    found = allocate(layers, importance, budget, steps)
    assert found.bytes == sum(rank * rank_bytes(*layers[name]) for name, rank in found.ranks.items()) <= budget
    assert found.binds == (budget < most)
    step = 0.0 if equal else max(weights) * max(math.log((1 + high) / (1 + low)) for low, high in pairwise(steps))
    assert value_of(found.ranks, importance) >= best(layers, importance, budget, steps) - step - 1e-12


def test_more_important_layers_get_more_rank_and_what_is_held_anyway_is_subtracted() -> None:
    layers = {"low": (32, 32), "high": (32, 32)}
    room = 12 * rank_bytes(32, 32)
    found = allocate(layers, {"low": 0.1, "high": 1.0}, room + 1000, (4, 8, 16), fixed_bytes=1000)
    assert found.ranks == {"low": 4, "high": 8}
    assert (found.bytes, found.binds) == (room + 1000, True)
    assert allocate(layers, {"low": 0.1, "high": 1.0}, room, (4, 8, 16), fixed_bytes=1000).ranks["high"] == 4
    assert allocate(layers, {"low": 0.0, "high": 1.0}, 10**9, (4, 8)).ranks == {"low": 4, "high": 8}


def test_a_budget_that_is_larger_than_everything_does_not_bind() -> None:
    found = allocate({"q": (64, 64)}, {"q": 1.0}, 10**9, (4, 64))
    assert (found.ranks, found.binds) == ({"q": 64}, False)


def test_no_rank_is_above_the_width_of_its_layer() -> None:
    found = allocate({"narrow": (64, 3), "wide": (64, 64)}, {"narrow": 1.0, "wide": 1.0}, 10**9, (8, 16))
    assert found.ranks == {"narrow": 3, "wide": 16}


def test_a_budget_below_one_adapter_is_an_error_with_both_sizes() -> None:
    with pytest.raises(BudgetTooSmall, match="needs 8,192 bytes, and the budget is 8,191"):
        allocate({"q": (64, 64)}, {"q": 1.0}, 8191, (4, 8))
    assert allocate({"q": (64, 64)}, {"q": 1.0}, 8192, (4, 8)).ranks == {"q": 4}


def test_what_is_no_candidate_and_no_importance_is_refused() -> None:
    for candidates, importance in (((), 1.0), ((0, 4), 1.0), ((4,), -1.0), ((4,), float("nan")), ((4,), float("inf"))):
        with pytest.raises(ValueError, match=r"candidate|importance"):
            allocate({"q": (8, 8)}, {"q": importance}, 10**6, candidates)
    with pytest.raises(ValueError, match="'q' has no importance"):
        allocate({"q": (8, 8)}, {}, 10**6, (4,))


def test_a_device_holds_the_base_the_activations_the_head_and_a_reserve() -> None:
    assert held_bytes(1000, 10, 50.0, head=2, reserve=0.0) == 1000 + 500 + 32
    assert held_bytes(1000, 0, 50.0) == 1100

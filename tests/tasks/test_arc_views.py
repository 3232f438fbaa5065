"""Transforms, SEAL's random numbers, and the plan of views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.random_state import RandomState
from hybrid.tasks.arc.views import TRANSFORMS, UNDO, Pair, View, ViewSettings, plan
from tests.support.hash_seeds import printed_by_hash_seed

FIVE = ("transpose", "flip0", "flip1", "rot90", "rot180")

NUMPY: Mapping[str, Callable[[Any], Any]] = {
    "identity": lambda a: a,
    "transpose": np.transpose,
    "flip0": np.flipud,
    "flip1": np.fliplr,
    "rot90": np.rot90,
    "rot180": lambda a: np.rot90(a, 2),
    "rot270": lambda a: np.rot90(a, 3),
}


@st.composite
def grids(draw: st.DrawFn, side: int = 30) -> Grid:
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    row = st.lists(st.integers(0, 9), min_size=width, max_size=width).map(tuple)
    return tuple(draw(st.lists(row, min_size=height, max_size=height)))


def demonstrations(count: int) -> list[Pair]:
    """Pairs without any symmetry, so that no two views look alike by accident."""
    return [(((i, 1, 2), (3, 4, 5)), ((5, i), (6, 7), (8, 9))) for i in range(count)]


TEST: Grid = ((0, 1, 2), (3, 4, 6))


@given(grids(side=8))
def test_every_transform_is_undone(grid: Grid) -> None:
    for name, turn in TRANSFORMS.items():
        assert UNDO[name](turn(grid)) == grid


@given(grids(side=8))
def test_every_transform_is_numpys(grid: Grid) -> None:
    for name, turn in TRANSFORMS.items():
        assert turn(grid) == tuple(map(tuple, NUMPY[name](np.array(grid)).tolist()))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_random_numbers_are_those_of_numpys_random_state(seed: int) -> None:
    ours, theirs = RandomState(seed), np.random.RandomState(seed)
    for n in [1, 2, 3, 4, 7, 16, 33] * 20:
        assert ours.permutation(range(n)) == tuple(theirs.permutation(n))
        assert ours.below(n) == theirs.choice(list(range(n)))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        RandomState(seed)


@pytest.mark.parametrize(("count", "queries"), [(2, 7), (3, 10), (4, 16), (5, 20), (6, 23)])
def test_the_plan_has_as_many_views_as_seals_queries(count: int, queries: int) -> None:
    views = plan(demonstrations(count), TEST, ViewSettings((1,), 2, FIVE, 0))
    assert len(views) == queries
    assert sum(view.transform != "identity" for view in views) == 5
    assert {len(view.train) for view in views} == {count - 1}


def test_views_that_show_the_same_are_asked_once() -> None:
    square: Grid = ((1, 0, 1), (0, 1, 0), (1, 0, 1))  # looks the same in all seven transforms
    views = plan([(square, square)] * 3, square, ViewSettings((0, 1), 2, tuple(TRANSFORMS)[1:], 0))
    assert views == (View("identity", (0, 1, 2)), View("identity", (1, 2)))


def test_all_demonstrations_are_shown_when_nothing_is_left_out() -> None:
    views = plan(demonstrations(3), TEST, ViewSettings((0,), 0, (), 0))
    assert views == (View("identity", (0, 1, 2)),)


def test_a_task_with_one_demonstration_keeps_it() -> None:
    assert plan(demonstrations(1), TEST, ViewSettings((1, 2), 0, (), 0)) == (View("identity", (0,)),)


def test_another_seed_gives_other_orders() -> None:
    first, other = (plan(demonstrations(5), TEST, ViewSettings((0,), 2, FIVE, seed)) for seed in (0, 1))
    assert first != other


def test_neighbours_share_their_first_demonstrations() -> None:
    trains = [v.train for v in plan(demonstrations(4), TEST, ViewSettings((1,), 2, (), 0))]
    assert trains == sorted(trains)


def test_a_view_turns_demonstrations_and_test_input_alike() -> None:
    view = View("flip0", (1,))
    pairs = demonstrations(2)
    assert view.pairs(pairs) == ((pairs[1][0][::-1], pairs[1][1][::-1]),)
    assert view.grid(TEST) == TEST[::-1]


def test_the_plan_is_the_same_in_every_process() -> None:
    code = (
        "from hybrid.tasks.arc.views import *\n"
        "pairs = [(((i, 1, 2), (3, 4, 5)), ((5, i), (6, 7), (8, 9))) for i in range(5)]\n"
        "r = ViewSettings((0, 1, 2), 2, ('transpose', 'flip0', 'rot90'), 7)\n"
        "print(plan(pairs, ((0, 1, 2), (3, 4, 6)), r))"
    )
    printed = printed_by_hash_seed(code, "0", "1", "4242")
    assert len(printed) == 1
    assert "View" in printed.pop()

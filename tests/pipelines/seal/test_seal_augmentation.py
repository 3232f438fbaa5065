"""Augmenters: what each makes of a grid, beside numpy, and what it may not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.views import UNDO, Pair
from pipelines.seal.augmentation import AUGMENTERS, GROUPS, chosen, shifted
from tests.support.seal_reference import ACTS, translated


@st.composite
def grids(draw: st.DrawFn, side: int = 30) -> Grid:
    height, width = draw(st.integers(1, side)), draw(st.integers(1, side))
    row = st.lists(st.integers(0, 9), min_size=width, max_size=width).map(tuple)
    return tuple(draw(st.lists(row, min_size=height, max_size=height)))


PAIRS = st.tuples(grids(side=6), grids(side=6))


def arrays(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return np.array(pair[0]), np.array(pair[1])


def tuples(pair: tuple[np.ndarray, np.ndarray]) -> Pair:
    first, second = (tuple(map(tuple, grid.tolist())) for grid in pair)
    return first, second


def test_there_are_as_many_of_each_group_as_in_seal() -> None:
    groups = [group for group, _ in AUGMENTERS.values()]
    assert {group: groups.count(group) for group in GROUPS} == {"basic": 11, "size": 3, "chain": 6, "repeat": 3}
    assert list(AUGMENTERS) == list(ACTS)
    assert len(chosen(GROUPS, [], 0)) == 23


def test_only_what_is_chosen_is_there_and_in_seals_order_whatever_the_order_of_choosing() -> None:
    assert list(chosen(["repeat", "size"], [], 0)) == [
        "resolution2", "height2", "width2", "repeat0", "repeat1", "repeat2",
    ]  # fmt: skip
    assert chosen([], [], 0) == {}


@given(grids(side=8))
def test_every_augmenter_is_numpys(grid: Grid) -> None:
    for name, (_, function) in AUGMENTERS.items():
        act = ACTS[name][1]
        assert (function is None) == (act is None) == (name == "translate")
        if function and act:
            assert function(grid) == tuple(map(tuple, act(np.array(grid)).tolist())), name


@given(grids(side=8))
def test_sides_are_what_the_name_says_and_no_colour_comes_or_goes(grid: Grid) -> None:
    height, width = len(grid), len(grid[0])
    colours = {cell for row in grid for cell in row}
    doubled = {"resolution2", "repeat2"}
    for name, augment in chosen(GROUPS, [(grid, grid)], 0).items():
        made = augment((grid, grid))[0]
        turned = name.startswith(("rot90", "rot270", "transpose"))
        tall, wide = (width, height) if turned else (height, width)
        taller = name in {*doubled, "height2", "repeat0", "reflect0-before", "reflect0-after"} or "-res" in name
        wider = name in {*doubled, "width2", "repeat1", "reflect1-before", "reflect1-after"} or "-res" in name
        assert (len(made), {len(row) for row in made}) == (tall * (1 + taller), {wide * (1 + wider)}), name
        assert {cell for row in made for cell in row} == colours, name


def back(name: str, made: Grid, height: int, width: int) -> Grid:
    """The grid that `name` made `made` of."""
    turn, _, larger = name.partition("-resolution2")
    if turn in UNDO:
        return UNDO[turn](tuple(row[::2] for row in made[::2]) if name != turn else made)
    if name.endswith("-before"):
        return tuple(row[-width:] for row in made[-height:])
    rows, cells = (2 if name in {"resolution2", axis} else 1 for axis in ("height2", "width2"))
    return tuple(row[::cells][:width] for row in made[::rows][:height])


@given(grids(side=8))
def test_every_augmenter_can_be_undone(grid: Grid) -> None:
    for name, (_, function) in AUGMENTERS.items():
        if function:
            assert back(name, function(grid), len(grid), len(grid[0])) == grid, name


@given(grids(side=8), st.integers(0, 40), st.integers(0, 40))
def test_a_shift_is_numpys_roll_and_its_reverse_undoes_it(grid: Grid, down: int, right: int) -> None:
    moved = shifted(grid, down, right)
    assert moved == tuple(map(tuple, np.roll(np.array(grid), (down, right), (0, 1)).tolist()))
    assert shifted(moved, -down, -right) == grid


@given(st.lists(PAIRS, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_the_default_translation_moves_all_grids_of_a_task_by_the_same_cells(pairs: list[Pair], seed: int) -> None:
    translate = chosen(["basic"], pairs, seed)["translate"]
    low = min([4, *(len(grid) for pair in pairs for grid in pair)])
    narrow = min([4, *(len(grid[0]) for pair in pairs for grid in pair)])
    shifts = [(down, right) for down in range(low) for right in range(narrow)]
    fitting = [
        shift for shift in shifts if all(translate(p) == (shifted(p[0], *shift), shifted(p[1], *shift)) for p in pairs)
    ]
    assert fitting


def test_the_default_translation_moves_where_it_can() -> None:
    grid = tuple(tuple((row * 3 + cell) % 10 for cell in range(3)) for row in range(3))
    for seed in range(50):
        assert chosen(["basic"], [(grid, grid)], seed)["translate"]((grid, grid))[0] != grid
    assert chosen(["basic"], [(((1,),), grid)], 0)["translate"]((((1,),), grid)) == (((1,),), grid)


@given(PAIRS, st.integers(0, 2**32 - 1))
def test_the_published_translation_is_numpys_draws(pair: Pair, seed: int) -> None:
    ours = chosen(["basic"], [pair], seed, "seal")["translate"](pair)
    assert ours == tuples(translated(arrays(pair), np.random.RandomState(seed)))


def test_the_published_translation_breaks_a_rule_that_the_default_keeps() -> None:
    """Trap: with seed 0 inputs move 3 right and outputs 1 down, so "copy the grid" is not copying any more."""
    grid = tuple(tuple((row * 5 + cell) % 10 for cell in range(5)) for row in range(5))
    given_, wanted = chosen(["basic"], [(grid, grid)], 0, "seal")["translate"]((grid, grid))
    assert (given_, wanted) == (shifted(grid, 0, 3), shifted(grid, 1, 0))
    for seed in range(20):
        given_, wanted = chosen(["basic"], [(grid, grid)], seed)["translate"]((grid, grid))
        assert given_ == wanted


@pytest.mark.parametrize("translation", ["alike", "seal"])
def test_a_seed_means_one_translation(translation: str) -> None:
    grid = tuple(tuple((row * 5 + cell) % 10 for cell in range(6)) for row in range(6))
    made = {chosen(["basic"], [(grid, grid)], seed, translation)["translate"]((grid, grid)) for seed in [3] * 3}  # type: ignore[arg-type]
    assert len(made) == 1

"""What is a grid, and how close two are."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid.tasks.arc.grid import cell_accuracy, grid_of


def test_rows_of_colours_are_a_grid() -> None:
    assert grid_of([[0, 9], [1, 2]]) == ((0, 9), (1, 2))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [[]],
        [[], []],
        "00",
        [["0"]],
        [[10]],
        [[-1]],
        [[1.0]],
        [[True]],
        [[1], [1, 2]],
        [[1], 2],
        {"0": [1]},
        [[0] * 31],
        [[0]] * 31,
        [[[1]]],
        [[None]],
        [1, 2],
    ],
)
def test_anything_else_is_no_grid(value: Any) -> None:
    assert grid_of(value) is None


def test_the_largest_grid_is_30_by_30() -> None:
    assert grid_of([[9] * 30] * 30) is not None


def test_cell_accuracy_counts_equal_cells() -> None:
    assert cell_accuracy(((1, 2), (3, 4)), ((1, 2), (3, 0))) == 0.75


def test_cell_accuracy_counts_cells_outside_the_other_grid_as_different() -> None:
    truth = ((1, 2),)
    assert cell_accuracy(((1, 2), (0, 0)), truth) == 0.5
    assert cell_accuracy(((1,),), truth) == 0.5
    assert cell_accuracy(((1, 2, 5), (1, 2, 5)), truth) == pytest.approx(2 / 6)


def test_cell_accuracy_is_one_only_for_equal_grids() -> None:
    grid = ((0,) * 30,) * 30
    assert cell_accuracy(grid, grid) == 1.0
    assert cell_accuracy(((0,) * 30,) * 29, grid) < 1.0

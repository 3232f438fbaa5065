"""ARC grids: 1 to 30 rows of 1 to 30 cells, each cell a colour 0 to 9."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

Grid: TypeAlias = tuple[tuple[int, ...], ...]
"""Rows from top to bottom, cells from left to right. Hashable, so grids can be counted."""

MAX_SIDE = 30
COLOURS = 10


def grid_of(value: Any) -> Grid | None:
    """`value` (decoded JSON of any origin) as a grid, None when it is not one: no bool, float or ragged row passes."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_SIDE:
        return None
    width = len(value[0]) if isinstance(value[0], list | tuple) else 0
    if not 1 <= width <= MAX_SIDE or not all(_is_row(row, width) for row in value):
        return None
    return tuple([tuple(row) for row in value])


def _is_row(row: Any, width: int) -> bool:
    if not isinstance(row, list | tuple) or len(row) != width or set(map(type, row)) != {int}:
        return False
    return bool(min(row) >= 0 and max(row) < COLOURS)


def cell_accuracy(answer: Grid, truth: Grid) -> float:
    """Share of equal cells in the smallest rectangle that covers both grids, in [0, 1]; 1 only for equal grids.

    Cells that one of the two does not have count as different, so a too large answer gains nothing.
    """
    height = max(len(answer), len(truth))
    width = max(len(answer[0]), len(truth[0]))
    if answer == truth:
        return 1.0
    equal = sum(sum(map(operator.eq, row, other)) for row, other in zip(answer, truth, strict=False))
    return equal / (height * width)

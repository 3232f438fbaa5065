"""Small tasks of simple rules, generated from a seed: a data set without files that a small model can learn from.

Every family is one kind of rule. A task draws its rule and its inputs, so no two tasks of a family show the same grids.
The rules depend on positions and colours of a few cells; an untrained small model copies or guesses, and learns most
of them from the demonstrations in a few training steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from hybrid.tasks.arc.grid import COLOURS, Grid
from hybrid.tasks.arc.random_state import RandomState

Rule = Callable[[Grid], Grid]

DEMONSTRATIONS = 4
TESTS = 3
SIZES = ((3, 2), (2, 3))
"""Rows and columns of the inputs: tasks of a family take them in turn."""

VERSION = 1
"""To be raised when a seed no longer gives the same tasks."""


def flip(_: RandomState) -> Rule:
    """The rows in reverse order."""
    return lambda grid: grid[::-1]


def top(_: RandomState) -> Rule:
    """Every row becomes the first one."""
    return lambda grid: grid[:1] * len(grid)


def bottom(_: RandomState) -> Rule:
    """Every row becomes the last one."""
    return lambda grid: grid[-1:] * len(grid)


def stack(_: RandomState) -> Rule:
    """The grid twice, one below the other."""
    return lambda grid: grid + grid


def reflect(_: RandomState) -> Rule:
    """The grid, and below it its reflection."""
    return lambda grid: grid + grid[::-1]


def spread(_: RandomState) -> Rule:
    """Every cell gets the colour of the first one in its row."""
    return lambda grid: tuple([row[:1] * len(row) for row in grid])


def floor(draws: RandomState) -> Rule:
    """The last row gets one colour, the same in all grids of the task."""
    colour = _colour(draws)
    return lambda grid: (*grid[:-1], (colour,) * len(grid[-1]))


def wall(draws: RandomState) -> Rule:
    """The first column gets one colour, the same in all grids of the task."""
    colour = _colour(draws)
    return lambda grid: tuple([(colour, *row[1:]) for row in grid])


def double(_: RandomState) -> Rule:
    """The grid twice, side by side."""
    return lambda grid: tuple([row + row for row in grid])


def recolour(draws: RandomState) -> Rule:
    """One colour becomes another one, the same two in all grids of the task."""
    old, new = (1 + colour for colour in draws.permutation(range(COLOURS - 1))[:2])
    return lambda grid: tuple([tuple([new if cell == old else cell for cell in row]) for row in grid])


FAMILIES: Mapping[str, Callable[[RandomState], Rule]] = {
    family.__name__: family for family in (flip, top, bottom, stack, reflect, spread, floor, wall, double, recolour)
}
"""Name -> function that draws a rule of the family."""


def suite(seed: int = 0, each: int = 2) -> dict[str, dict[str, Any]]:
    """`each` tasks of every family in the form of an ARC file, test outputs included: {"flip-0": {"train", "test"}}.

    A task with the same id and seed is the same one whatever `each` is, on every machine. Raises ValueError for a
    number of tasks under 1.
    """
    if each < 1:
        raise ValueError(f"a suite has at least one task of each family, not {each}")
    return {f"{name}-{number}": _task(name, number, seed) for name in sorted(FAMILIES) for number in range(each)}


def _task(name: str, number: int, seed: int) -> dict[str, Any]:
    """Demonstrations and tests of different inputs, none of which the rule leaves as it is."""
    named = hashlib.sha256(f"{VERSION} {seed} {name} {number}".encode()).digest()
    draws = RandomState(int.from_bytes(named[:4], "big"))
    rule, size = FAMILIES[name](draws), SIZES[number % len(SIZES)]
    inputs: dict[Grid, Grid] = {}
    while len(inputs) < DEMONSTRATIONS + TESTS:
        grid = tuple([tuple([_colour(draws) for _ in range(size[1])]) for _ in range(size[0])])
        if rule(grid) != grid:
            inputs[grid] = rule(grid)
    pairs = [{"input": _rows(grid), "output": _rows(output)} for grid, output in inputs.items()]
    return {"train": pairs[:DEMONSTRATIONS], "test": pairs[DEMONSTRATIONS:]}


def _colour(draws: RandomState) -> int:
    """Any but black."""
    return 1 + draws.below(COLOURS - 1)


def _rows(grid: Grid) -> list[list[int]]:
    return [list(row) for row in grid]

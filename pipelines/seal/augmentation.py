"""Augmenters: functions that make new ARC tasks from one, as SEAL's do (few-shot/arclib/augmenters.py), on plain grids.

An augmenter changes inputs and outputs alike. That keeps the rule of a task only where the rule commutes with it: a
task that says "the top row" is another task once it is turned. SEAL leaves the choice to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.random_state import RandomState
from hybrid.tasks.arc.views import TRANSFORMS, Pair

Augment = Callable[[Pair], Pair]
Translation = Literal["alike", "seal"]

GROUPS = ("basic", "size", "chain", "repeat")
"""SEAL's four tools: a self-edit switches each on or off."""

MOST_SHIFT = 4
"""A translation shifts by fewer cells than this."""


def _below(first: Grid, second: Grid) -> Grid:
    return first + second


def _beside(first: Grid, second: Grid) -> Grid:
    return tuple([row + other for row, other in zip(first, second, strict=True)])


def _taller(grid: Grid) -> Grid:
    return tuple([row for row in grid for _ in range(2)])


def _wider(grid: Grid) -> Grid:
    return tuple([tuple([cell for cell in row for _ in range(2)]) for row in grid])


def _larger(grid: Grid) -> Grid:
    return _taller(_wider(grid))


def _then_larger(name: str) -> Callable[[Grid], Grid]:
    turn = TRANSFORMS[name]
    return lambda grid: _larger(turn(grid))


_flip0, _flip1 = TRANSFORMS["flip0"], TRANSFORMS["flip1"]

TRANSLATE = "translate"

AUGMENTERS: Mapping[str, tuple[str, Callable[[Grid], Grid] | None]] = {
    "rot90": ("basic", TRANSFORMS["rot90"]),
    "rot270": ("basic", TRANSFORMS["rot270"]),
    "rot180": ("basic", TRANSFORMS["rot180"]),
    "flip0": ("basic", _flip0),
    "flip1": ("basic", _flip1),
    "reflect0-before": ("basic", lambda grid: _below(_flip0(grid), grid)),
    "reflect1-before": ("basic", lambda grid: _beside(_flip1(grid), grid)),
    "reflect0-after": ("basic", lambda grid: _below(grid, _flip0(grid))),
    "reflect1-after": ("basic", lambda grid: _beside(grid, _flip1(grid))),
    TRANSLATE: ("basic", None),  # the shift is drawn at random: see `chosen`
    "transpose": ("basic", TRANSFORMS["transpose"]),
    "resolution2": ("size", _larger),
    "height2": ("size", _taller),
    "width2": ("size", _wider),
    "rot90-resolution2": ("chain", _then_larger("rot90")),
    "rot270-resolution2": ("chain", _then_larger("rot270")),
    "rot180-resolution2": ("chain", _then_larger("rot180")),
    "flip0-resolution2": ("chain", _then_larger("flip0")),
    "flip1-resolution2": ("chain", _then_larger("flip1")),
    "transpose-resolution2": ("chain", _then_larger("transpose")),
    "repeat0": ("repeat", lambda grid: _below(grid, grid)),
    "repeat1": ("repeat", lambda grid: _beside(grid, grid)),
    "repeat2": ("repeat", lambda grid: _beside(_below(grid, grid), _below(grid, grid))),
}
"""Name -> group and function on a grid, in SEAL's order. `reflect0-before` puts the mirror image above the grid."""


def chosen(
    groups: Sequence[str], demonstrations: Sequence[Pair], seed: int, translation: Translation = "alike"
) -> dict[str, Augment]:
    """The augmenters of `groups` by name, in SEAL's order, as functions on a demonstration.

    `translation` says how the one that shifts at random is drawn. "alike": one shift for all grids, within the smallest
    of them, so that inputs and outputs keep their relative position. "seal": as published, where outputs and inputs
    shift differently (down 1 instead of right 3 with seed 0), which breaks every rule that depends on position.
    """
    translate = _translated_as_published(seed) if translation == "seal" else _translated(demonstrations, seed)
    return {
        name: translate if function is None else _on_both(function)
        for name, (group, function) in AUGMENTERS.items()
        if group in groups
    }


def _on_both(function: Callable[[Grid], Grid]) -> Augment:
    return lambda pair: (function(pair[0]), function(pair[1]))


def shifted(grid: Grid, down: int, right: int) -> Grid:
    """The grid shifted cyclically: cells that leave at one side enter at the other."""
    down, right = down % len(grid), right % len(grid[0])
    return tuple([row[-right:] + row[:-right] if right else row for row in grid[-down:] + grid[:-down]])


def _translated(demonstrations: Sequence[Pair], seed: int) -> Augment:
    """One shift of 0 to 3 cells each way, within the smallest grid; (0, 0) only where no other shift exists."""
    grids = [grid for pair in demonstrations for grid in pair]
    height = min([MOST_SHIFT, *map(len, grids)])
    width = min([MOST_SHIFT, *(len(grid[0]) for grid in grids)])
    draw = 1 + RandomState(seed).below(height * width - 1) if height * width > 1 else 0
    down, right = divmod(draw, width)
    return _on_both(lambda grid: shifted(grid, down, right))


def _translated_as_published(seed: int) -> Augment:
    """Every demonstration draws from a fresh copy of the same generator: first for its input, then for its output."""

    def move(pair: Pair) -> Pair:
        draws = RandomState(seed)
        first, second = (
            shifted(grid, draws.below(min(MOST_SHIFT, len(grid))), draws.below(min(MOST_SHIFT, len(grid[0]))))
            for grid in pair
        )
        return first, second

    return move

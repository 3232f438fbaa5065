"""Views of an ARC question: which demonstrations are shown, in which order, and how all grids are turned.

A view changes how a question is shown, not what is asked, so every answer can be turned back and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.random_state import RandomState

Pair = tuple[Grid, Grid]
"""A demonstration: input and output."""


def _identity(grid: Grid) -> Grid:
    return grid


def _transpose(grid: Grid) -> Grid:
    return tuple(zip(*grid, strict=True))


def _flip0(grid: Grid) -> Grid:
    return grid[::-1]


def _flip1(grid: Grid) -> Grid:
    return tuple([row[::-1] for row in grid])


def _rot90(grid: Grid) -> Grid:
    return tuple(zip(*grid, strict=True))[::-1]


def _rot180(grid: Grid) -> Grid:
    return tuple([row[::-1] for row in grid[::-1]])


def _rot270(grid: Grid) -> Grid:
    return tuple(zip(*grid[::-1], strict=True))


TRANSFORMS: Mapping[str, Callable[[Grid], Grid]] = {
    "identity": _identity,
    "transpose": _transpose,
    "flip0": _flip0,  # up and down
    "flip1": _flip1,  # left and right
    "rot90": _rot90,  # counterclockwise, as numpy's rot90
    "rot180": _rot180,
    "rot270": _rot270,
}
"""Name -> function on a grid. The order is the order in which views are asked and ties are broken."""

UNDO: Mapping[str, Callable[[Grid], Grid]] = {**TRANSFORMS, "rot90": _rot270, "rot270": _rot90}
"""Name -> function that takes an answer in that view back to the question's own orientation."""

ORDER: Mapping[str, int] = {name: rank for rank, name in enumerate(TRANSFORMS)}


@dataclass(frozen=True, slots=True)
class View:
    """One way of showing a question: `train` holds the indices of the shown demonstrations, in the shown order."""

    transform: str
    train: tuple[int, ...]

    @property
    def place(self) -> tuple[int, tuple[int, ...]]:
        """Sort key: in this order, neighbours share the longest prompt prefix."""
        return ORDER[self.transform], self.train

    def pairs(self, demonstrations: Sequence[Pair]) -> tuple[Pair, ...]:
        """The demonstrations as shown."""
        turn = TRANSFORMS[self.transform]
        return tuple((turn(demonstrations[i][0]), turn(demonstrations[i][1])) for i in self.train)

    def grid(self, test_input: Grid) -> Grid:
        """The test input as shown."""
        return TRANSFORMS[self.transform](test_input)


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Which views to make, with SEAL's names; `transforms` are names of TRANSFORMS without identity."""

    include_n: tuple[int, ...]
    permute_n: int
    transforms: tuple[str, ...]
    seed: int


def plan(demonstrations: Sequence[Pair], test_input: Grid, settings: ViewSettings) -> tuple[View, ...]:
    """The views of one question, by SEAL's rule (few-shot/inference/preprocess.py), but deterministic.

    For each n in `include_n`: every subset that leaves out n demonstrations, `permute_n` random orders of each, and
    each of `transforms` on one random member of these. Of views that show the same grids, the first in the order of
    construction stays (SEAL keeps them in a hash set, whose order differs between processes and
    decides which member is transformed). An n that would leave no demonstration is skipped; when no n is left,
    all demonstrations are shown. Sorted by transform, then demonstrations, so that neighbours share a prompt prefix.
    """
    count = len(demonstrations)

    def distinct(views: Iterable[View]) -> list[View]:
        shown: dict[object, View] = {}
        for view in views:
            shown.setdefault((view.pairs(demonstrations), view.grid(test_input)), view)
        return list(shown.values())

    views: list[View] = []
    for n in [n for n in settings.include_n if n < count] or [0]:
        draws = RandomState(settings.seed)
        plain = distinct(View("identity", order) for order in _orders(count, n, settings.permute_n, draws))
        turned = [View(name, plain[draws.below(len(plain))].train) for name in settings.transforms]
        views += plain + turned
    return tuple(sorted(distinct(views), key=lambda view: view.place))


def _orders(count: int, n: int, permute_n: int, draws: RandomState) -> Iterator[tuple[int, ...]]:
    """The subsets that leave out n of `count` demonstrations, each in its natural order and `permute_n` random ones."""
    for left_out in itertools.combinations(range(count), n):
        kept = tuple(i for i in range(count) if i not in left_out)
        yield kept
        for _ in range(permute_n):
            yield draws.permutation(kept)

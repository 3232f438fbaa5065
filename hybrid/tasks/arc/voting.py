"""Voting: from the answers of all views of a question to two attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.views import ORDER


@dataclass(frozen=True, slots=True)
class Vote:
    """An answer, turned back to the question's orientation, and the transform of the view it was given in."""

    grid: Grid
    transform: str


@dataclass(frozen=True, slots=True)
class GridVotes:
    """A grid with the transforms of the views that answered it, in the order of the votes."""

    grid: Grid
    transforms: tuple[str, ...]


def count(votes: Sequence[Vote]) -> list[GridVotes]:
    """The distinct grids, best first.

    More votes first; then more distinct transforms (views that turn the grid differently err differently, so their
    agreement is stronger evidence than that of reordered demonstrations); then more identity votes; then the
    earlier vote.
    """
    by_grid: dict[Grid, list[str]] = {}
    for vote in votes:
        by_grid.setdefault(vote.grid, []).append(vote.transform)
    ranked = [GridVotes(grid, tuple(transforms)) for grid, transforms in by_grid.items()]
    if len(ranked) > 1:
        ranked.sort(key=lambda t: (-len(t.transforms), -len(set(t.transforms)), -t.transforms.count("identity")))
    return ranked


def flat(votes: Sequence[Vote]) -> tuple[Grid, ...]:
    """The two best grids of `count`, with one vote a view. Fewer only when there are fewer distinct grids."""
    return tuple(one.grid for one in count(votes)[:2])


GROUPS = ("identity", "transpose", "flip0", "flip1", "rot180", "rot90")
"""The groups of SEAL's rule in its order; it names them by the inverse, so `rot90` is its "Rotate(270)"."""


def seal(votes: Sequence[Vote]) -> tuple[Grid, ...]:
    """Two attempts by SEAL's published rule (few-shot/arclib/voting.py).

    Each group (all votes, then one for each transform) names three candidates, the candidates of all groups are
    pooled, and the same rule picks from the pool. Its known flaws: a group with one answer, or a unanimous one,
    names its grid three times or pads it with grids that nobody answered, so one view can weigh as much as all
    identity views; an attempt can be such a padding; both attempts can be equal although another grid was answered;
    a tie for the second place goes to the third unless the second has strictly more identity votes.

    The original breaks ties by the order in which Python's sets of grids, shapes and rows are walked, and so does this.
    That order follows from the numbers in them and from the order of the votes, so it is the same in every process of
    CPython 3.11 or newer with 64 bits; `PYTHONHASHSEED` is about texts. Two choices are ours: votes are in the order of
    `answers` (the original's come from a set of tasks whose order does change from process to process), and of equal
    counts the earlier stays first when counts are sorted (numpy's default sort, which the original uses, moves them on
    processors with AVX2 or AVX-512).
    """
    groups = {name: [vote.grid for vote in votes if vote.transform == name] for name in ORDER}
    every = [grid for group in groups.values() for grid in group]
    pool = [grid for group in (every, *(groups[name] for name in GROUPS)) for grid in _three(group)]
    if not pool:
        return ()
    first, second, third = _three(pool)
    identity = groups["identity"]
    tied = pool.count(second) == pool.count(third)
    if identity and tied and identity.count(second) <= identity.count(third):
        second = third
    return (first, second)


METHODS: Mapping[str, Callable[[Sequence[Vote]], tuple[Grid, ...]]] = {"flat": flat, "seal": seal}
"""Setting `voting` -> rule."""


def _three(grids: Sequence[Grid]) -> tuple[Grid, ...]:
    """The three most frequent grids of a group, filled up with majority grids when there are fewer or when two tie."""
    if not grids:
        return ()
    counts = Counter(grids)
    distinct = list(set(grids))
    first = max(distinct, key=counts.__getitem__)
    rising = sorted(distinct, key=counts.__getitem__)  # stable: of a tie, the last in order counts as the most frequent
    second = rising[-2] if len(distinct) > 1 else first
    third = rising[-3] if len(distinct) > 2 else first
    if second == first:
        second = _fill(grids, (first,))
    if third in (first, second):
        third = _fill(grids, (first, second))
    return (first, second, third)


def _fill(grids: Sequence[Grid], taken: tuple[Grid, ...]) -> Grid:
    rows = _majority(grids)
    if rows not in taken:
        return rows
    return tuple(zip(*_majority([tuple(zip(*grid, strict=True)) for grid in grids]), strict=True))


def _majority(grids: Sequence[Grid]) -> Grid:
    """The most frequent shape, each of its rows the most frequent one of that place and width."""
    height, width = _most_frequent([(len(grid), len(grid[0])) for grid in grids])
    rows = ([grid[i] for grid in grids if len(grid) > i and len(grid[i]) == width] for i in range(height))
    return tuple([_most_frequent(row) for row in rows])


_Ints = TypeVar("_Ints", bound=tuple[int, ...])


def _most_frequent(values: Sequence[_Ints]) -> _Ints:
    """Of a tie, the first in the order of the set."""
    return max(set(values), key=Counter(values).__getitem__)

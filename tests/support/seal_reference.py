"""SEAL's training tasks in its own way, every candidate made and tokenised before the cut, and its vote; with numpy.

Written from the description, not from the code; what it leaves out is chance: SEAL passes the tasks through hash sets
of salted hashes, here duplicates are found in order, and numpy's sort is the stable one, since the default one treats
ties otherwise on other processors. Sets of whole numbers and of tuples of them are no chance. An oracle for the tests,
and the peer of a benchmark.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Array = Any
Example = tuple[Array, Array]
Task = tuple[tuple[Example, ...], Example]
"""Shown examples, and the asked one."""


def reflected(axis: int, *, before: bool) -> Callable[[Array], Array]:
    def act(grid: Array) -> Array:
        mirror = np.flip(grid, axis)
        return np.concatenate((mirror, grid) if before else (grid, mirror), axis)

    return act


def enlarged(*axes: int) -> Callable[[Array], Array]:
    def act(grid: Array) -> Array:
        for axis in axes:
            grid = np.repeat(grid, 2, axis)
        return grid

    return act


def turned(quarter: int) -> Callable[[Array], Array]:
    return lambda grid: np.rot90(grid, quarter)


def flipped(axis: int) -> Callable[[Array], Array]:
    return lambda grid: np.flip(grid, axis)


def chained(first: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda grid: enlarged(0, 1)(first(grid))


ACTS: Mapping[str, tuple[str, Callable[[Array], Array] | None]] = {
    "rot90": ("basic", turned(1)),
    "rot270": ("basic", turned(3)),
    "rot180": ("basic", turned(2)),
    "flip0": ("basic", flipped(0)),
    "flip1": ("basic", flipped(1)),
    "reflect0-before": ("basic", reflected(0, before=True)),
    "reflect1-before": ("basic", reflected(1, before=True)),
    "reflect0-after": ("basic", reflected(0, before=False)),
    "reflect1-after": ("basic", reflected(1, before=False)),
    "translate": ("basic", None),
    "transpose": ("basic", np.transpose),
    "resolution2": ("size", enlarged(0, 1)),
    "height2": ("size", enlarged(0)),
    "width2": ("size", enlarged(1)),
    "rot90-resolution2": ("chain", chained(turned(1))),
    "rot270-resolution2": ("chain", chained(turned(3))),
    "rot180-resolution2": ("chain", chained(turned(2))),
    "flip0-resolution2": ("chain", chained(flipped(0))),
    "flip1-resolution2": ("chain", chained(flipped(1))),
    "transpose-resolution2": ("chain", chained(np.transpose)),
    "repeat0": ("repeat", lambda grid: np.tile(grid, (2, 1))),
    "repeat1": ("repeat", lambda grid: np.tile(grid, (1, 2))),
    "repeat2": ("repeat", lambda grid: np.tile(grid, (2, 2))),
}


def translated(example: Example, draws: np.random.RandomState) -> Example:
    def move(grid: Array) -> Array:
        by = tuple(int(draws.randint(0, min(4, side))) for side in grid.shape)
        return np.roll(grid, by, (0, 1))

    return move(example[0]), move(example[1])


def everywhere(task: Task, act: Callable[[Example], Example]) -> Task:
    return tuple(act(example) for example in task[0]), act(task[1])


def augmented(task: Task, name: str, draws: np.random.RandomState) -> Task:
    act = ACTS[name][1]
    if act is None:
        return everywhere(task, lambda example: translated(example, copy.deepcopy(draws)))
    return everywhere(task, lambda example: (act(example[0]), act(example[1])))


def fits(task: Task) -> bool:
    return all(max(grid.shape) <= 30 for example in (*task[0], task[1]) for grid in example)


def recoloured(task: Task, draws: np.random.RandomState) -> Task:
    cells = [int(cell) for example in (*task[0], task[1]) for grid in example for cell in grid.flatten()]
    present = set(cells) - {0}
    used, unused = list(present), list(set(list(range(1, 10))) - present)  # noqa: C414 - a range fills a set otherwise
    draws.shuffle(unused)
    shuffled = draws.permutation(used).tolist()
    becomes = {0: 0}
    for colour in used:
        if colour in becomes:
            continue
        if unused:
            becomes[colour] = unused.pop()
        else:
            other = shuffled.pop()
            becomes[other] = colour
            if colour in shuffled:
                shuffled.remove(colour)
            becomes[colour] = other
    paint = np.vectorize(becomes.__getitem__)
    return everywhere(task, lambda example: (paint(example[0]), paint(example[1])))


def plainly(task: Task) -> tuple[object, ...]:
    """The task as tuples of ints, to be compared."""
    shown, asked = everywhere(task, lambda example: tuple(tuple(map(tuple, grid.tolist())) for grid in example))  # type: ignore[arg-type,return-value]
    return shown, asked


def distinct(tasks: Iterable[Task]) -> list[Task]:
    first: dict[object, Task] = {}
    for task in tasks:
        first.setdefault(plainly(task), task)
    return list(first.values())


def candidates(examples: Sequence[Example], groups: Sequence[str], n: int, seed: int) -> list[Task]:
    """All training tasks that leave `n` examples out."""
    draws = np.random.RandomState(seed)
    initial = []
    for asked in range(len(examples)):
        others = [i for i in range(len(examples)) if i != asked]
        for gone in itertools.combinations(others, n - 1):
            shown = tuple(examples[i] for i in others if i not in gone)
            initial.append((shown, examples[asked]))
    names = [name for name, (group, _) in ACTS.items() if group in groups]
    made = [augmented(task, name, draws) for name in names for task in initial]
    tasks = distinct([*[task for task in made if fits(task)], *initial])
    copies = []
    for task in tasks:
        shown, asked = recoloured(task, draws) if groups else task
        order = draws.permutation(len(shown))
        copies.append((tuple(shown[i] for i in order), asked))
    return distinct([*copies, *tasks])


def written(grid: Array) -> str:
    return str(grid)


def chat(task: Task, instruction: str) -> list[dict[str, str]]:
    """SEAL's text format, written with numpy."""
    shown = "".join(f"{written(given)} -> {written(wanted)}#\n" for given, wanted in task[0])
    system = f"{instruction}\nThe input-output grids are provided as python arrays:\n{shown}"
    given, wanted = task[1]
    turns = ("system", system), ("user", f"{written(given)} -> "), ("assistant", f"{written(wanted)}#")
    return [{"role": role, "content": content} for role, content in turns]


def process(
    examples: Sequence[Example],
    groups: Sequence[str],
    length: Callable[[Task], int],
    *,
    seed: int = 0,
    most: int = 250,
) -> list[Task]:
    """The training tasks of one configuration. `length` gives a task's tokens: all candidates are asked for theirs."""
    made = []
    for n in (1, 2):
        if n <= len(examples):
            made += [task for task in candidates(examples, groups, n, seed) if length(task) < 8192]
    if len(made) > most:
        np.random.RandomState(seed).shuffle(made)  # type: ignore[arg-type]
        made = made[:most]
    return made


Told = tuple[tuple[int, ...], ...]
"""A grid as a vote counts it."""


def fullest(grids: Sequence[Told], *, by_column: bool) -> Told:
    """The majority grid: the most frequent shape, and for every row (or column) the most frequent one of its length."""
    given = [np.array(grid).T if by_column else np.array(grid) for grid in grids]
    shapes = [grid.shape for grid in given]
    height, width = max(set(shapes), key=shapes.count)
    rows = []
    for place in range(height):
        there = [tuple(grid[place].tolist()) for grid in given if grid.shape[0] > place and grid.shape[1] == width]
        rows.append(max(set(there), key=there.count))
    made = np.array(rows)
    return tuple(map(tuple, (made.T if by_column else made).tolist()))


def nominated(grids: Sequence[Told]) -> list[Told]:
    """The three that a group names, none of no group."""
    if not grids:
        return []
    different = list(set(grids))
    counts = [grids.count(grid) for grid in different]
    rising = np.argsort(counts, kind="stable")
    named = [different[int(np.argmax(counts))]]
    for place in (1, 2):
        next_one = different[rising[-1 - place]] if len(different) > place else named[0]
        if next_one in named:
            rows = fullest(grids, by_column=False)
            next_one = fullest(grids, by_column=True) if rows in named else rows
        named.append(next_one)
    return named


VOTING_GROUPS = ("identity", "transpose", "flip0", "flip1", "rot180", "rot90")


def voted(votes: Sequence[tuple[Told, str]]) -> tuple[Told, ...]:
    """The two attempts. `votes` are grids, turned back, with the transforms of their views."""
    groups: dict[str, list[Told]] = {}
    for grid, transform in votes:
        groups.setdefault(transform, []).append(grid)
    pool = nominated([grid for grids in groups.values() for grid in grids])
    for name in VOTING_GROUPS:
        pool += nominated(groups.get(name, []))
    if not pool:
        return ()
    first, second, third = nominated(pool)
    if pool.count(second) == pool.count(third) and "identity" in groups:
        plain = groups["identity"]
        second = second if plain.count(second) > plain.count(third) else third
    return first, second

"""The tasks that test-time training makes of the demonstrations of one: left out, augmented, recoloured, reordered.

SEAL's rule (few-shot/ttt.py), made deterministic: SEAL passes the tasks through hash sets, whose order differs between
processes, and that order decides which colours each task gets and which 250 are kept. Here the first of equal tasks in
order of construction stays, so a seed gives one list on every machine. SEAL's sets of colours are deterministic: sets
of integers have the same order in every process.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from hybrid.tasks.arc.grid import COLOURS, MAX_SIDE, Grid
from hybrid.tasks.arc.random_state import RandomState
from hybrid.tasks.arc.views import Pair
from pipelines.seal.augmentation import GROUPS, Augment, Translation, chosen

MOST = 250
"""Variants of a task that are kept, as SEAL does."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A task made for training: `shown` demonstrations in their order, and the one whose output is asked for."""

    shown: tuple[Pair, ...]
    asked: Pair


def variants(
    demonstrations: Sequence[Pair],
    groups: Sequence[str] = GROUPS,
    seed: int = 0,
    *,
    most: int = MOST,
    leave_n: Sequence[int] = (1, 2),
    colours: bool = True,
    translation: Translation = "alike",
) -> tuple[Variant, ...]:
    """The training tasks of `demonstrations`, at most `most`, the same ones in every process.

    For each n of `leave_n`, every demonstration is asked once for each way to leave n of the N demonstrations out,
    itself among them: N tasks for n = 1, N(N - 1) for n = 2. The augmenters of `groups` make further tasks of each;
    tasks with a side over 30 are dropped. Each task comes a second time, with its demonstrations in a random order and,
    when any group is on and with `colours`, in random colours. Duplicates of an earlier task of the same n are left
    out. Of more than `most` tasks a random sample stays. An n over the number of demonstrations is ignored; if no n
    remains, n is 1. With `translation="seal"` colours are drawn in the published order, too.
    """
    augmenters = chosen(groups, demonstrations, seed, translation)
    pools = [_pool(demonstrations, augment) for augment in augmenters.values()]
    plain = [_packed(pair) for pair in demonstrations]
    in_order: ColourOrder = list if translation == "seal" else sorted
    made: list[_Task] = []
    for n in [n for n in leave_n if n <= len(demonstrations)] or [1]:
        draws = RandomState(seed)
        tasks = list(dict.fromkeys(_tasks([*pools, plain], n)))
        made += dict.fromkeys([*_copies(tasks, draws, in_order if colours and augmenters else None), *tasks])
    if len(made) > most:
        made = [made[i] for i in RandomState(seed).permutation(range(len(made)))[:most]]
    unpacked = cache(_unpacked)
    return tuple([Variant(tuple([unpacked(pair) for pair in shown]), unpacked(asked)) for *shown, asked in made])


_Packed = bytes
"""A demonstration as bytes: one byte a cell, with separators between rows and grids. Equal bytes are equal
demonstrations, and `bytes.translate` recolours one in one call."""

_Task = tuple[_Packed, ...]
"""The shown demonstrations, then the asked one."""

_ROW, _GRID = b"\x0a", b"\x0b"  # neither is a colour


def _packed(pair: Pair) -> _Packed:
    return _GRID.join([_ROW.join(map(bytes, grid)) for grid in pair])


def _unpacked(packed: _Packed) -> Pair:
    given, wanted = packed.split(_GRID)
    return _grid(given), _grid(wanted)


def _grid(packed: bytes) -> Grid:
    return tuple(map(tuple, packed.split(_ROW)))


def _pool(demonstrations: Sequence[Pair], augment: Augment) -> list[_Packed | None]:
    """Every demonstration after the augmenter; None where the result has a side over 30."""
    made = [augment(pair) for pair in demonstrations]
    fits = [all(len(grid) <= MAX_SIDE and len(grid[0]) <= MAX_SIDE for grid in pair) for pair in made]
    return [_packed(pair) if small else None for pair, small in zip(made, fits, strict=True)]


def _tasks(pools: Iterable[Sequence[_Packed | None]], n: int) -> Iterator[_Task]:
    """The tasks of each pool that leave n demonstrations out of what is shown and hold none that is too large."""
    for pool in pools:
        for asked in range(len(pool)):
            others = [i for i in range(len(pool)) if i != asked]
            for gone in itertools.combinations(others, n - 1):
                task = [pool[i] for i in (*(i for i in others if i not in gone), asked)]
                whole = [pair for pair in task if pair is not None]
                if len(whole) == len(task):
                    yield tuple(whole)


ColourOrder = Callable[[set[int]], list[int]]
"""Puts a set of colours in order: `list` (the set's own order in CPython, as SEAL does) or `sorted`."""


def _copies(tasks: Iterable[_Task], draws: RandomState, in_order: ColourOrder | None) -> Iterator[_Task]:
    """Each task once more: with its demonstrations in another order, and with `in_order` in other colours."""
    seen = cache(_colours)
    for task in tasks:
        copy = task
        if in_order:
            table = recolouring([colour for pair in task for colour in seen(pair)], draws, in_order)
            copy = tuple([pair.translate(table) for pair in task])
        order = draws.permutation(range(len(copy) - 1))
        yield (*[copy[i] for i in order], copy[-1])


def _colours(packed: _Packed) -> list[int]:
    """The different colours, in their order of appearance."""
    return [colour for colour in dict.fromkeys(packed) if colour < COLOURS]


def recolouring(cells: Sequence[int], draws: RandomState, in_order: ColourOrder = list) -> bytes:
    """Colour -> colour as a table for `bytes.translate`: SEAL's draw. Black (0) stays, no two colours become one.

    `cells` are the colours of a task in their order of appearance: in a small set 8 and 9 share the hash slots of
    0 and 1, and the first one inserted takes the slot. The sets are built as in SEAL, because that decides their order.
    Used colours become colours that the task does not use, as long as there are some. The rest are swapped, also with a
    colour that was replaced before, which then loses its replacement.
    """
    present = set(cells) - {0}
    unused = set(list(range(1, COLOURS))) - present  # noqa: C414 - a set made of a range has another order
    used, free = in_order(present), in_order(unused)
    spare = [free[i] for i in draws.permutation(range(len(free)))]
    left = [used[i] for i in draws.permutation(range(len(used)))]
    table = bytearray(range(256))
    done: set[int] = set()
    for colour in used:
        if colour in done:
            continue
        if spare:
            table[colour] = spare.pop()
            continue
        other = left.pop()
        if colour in left:
            left.remove(colour)
        table[other], table[colour] = colour, other
        done.add(other)
    return bytes(table)

"""The random numbers that SEAL drew: numpy's `RandomState(seed)` for permutations and choices, in pure Python.

`RandomState` is frozen by numpy's compatibility promise: a Mersenne Twister seeded with Knuth's recurrence, whose
bounded integers are 32-bit draws under a mask, drawn again while too large. Python's own Mersenne Twister gives the
same 32-bit draws once it has that state. So the same seed gives the demonstration orders of the published runs, on
every machine and in every process, without numpy.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

_WORDS = 624


class RandomState:
    """The part of numpy's `RandomState` that ARC views need. `seed` is 0 to 2**32 - 1."""

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be 0 to {2**32 - 1}, got {seed}")
        words = [seed]
        for i in range(1, _WORDS):
            last = words[-1]
            words.append((1812433253 * (last ^ (last >> 30)) + i) & 0xFFFFFFFF)
        self._twister = random.Random()
        self._twister.setstate((3, (*words, _WORDS), None))

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, as `choice(n)` draws it. A choice among one draws nothing."""
        if n < 1:
            raise ValueError(f"cannot choose among {n}")
        bits = (n - 1).bit_length()
        if not bits:
            return 0
        while True:
            value = self._twister.getrandbits(32) & ((1 << bits) - 1)
            if value < n:
                return value

    def permutation(self, items: Iterable[int]) -> tuple[int, ...]:
        """`items` in a random order, as `permutation` draws it."""
        order = list(items)
        for i in range(len(order) - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return tuple(order)

"""Senders whose segments are not opened for a while, since what they published could not be used again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

LATE = frozenset(("too-old", "from-the-future", "second-writer"))
"""Kinds of refusals that say nothing of who wrote: a slow folder, a node that went on from an older state."""
MOST_FAULTS = 32
"""Faults that a sender may have more than rollouts that were used."""
ROUNDS = 10
"""Rounds of a first quarantine; a further one is twice as long as the one before, up to `LONGEST`."""
LONGEST = 640
MOST_SEGMENTS = 16
"""Segments of a sender and a round that are opened: honest ones have one, or a few where texts are long."""


class Quarantine:
    """Counts faults by sender. It is of this process: who starts again begins with trust."""

    def __init__(self) -> None:
        self._faults: Counter[int] = Counter()
        self._until: dict[int, int] = {}  # sender -> the first round in which it is read again
        self._length: dict[int, int] = {}
        self._opened: Counter[tuple[str, int]] = Counter()  # segments by name and round

    def holds(self, sender: int, now: int) -> bool:
        """Whether a sender's segments are passed over in round `now`."""
        return now < self._until.get(sender, 0)

    def opens(self, name: str, number: int) -> bool:
        """Whether one more segment of a name and round is opened; it counts."""
        self._opened[name, number] += 1
        return self._opened[name, number] <= MOST_SEGMENTS

    def forget(self, before: int) -> None:
        """Forget what was opened of the rounds before."""
        self._opened = Counter({key: count for key, count in self._opened.items() if key[1] >= before})

    def judge(self, sender: int, kinds: Iterable[str], used: int, now: int) -> int:
        """Take in what came of a segment: kinds of refusals, and rollouts that are used for the first time.

        Returns for how many rounds the sender is put into quarantine now, 0 for none.
        """
        wrong = sum(kind not in LATE for kind in kinds)
        self._faults[sender] = max(0, self._faults[sender] + wrong - used)
        if self._faults[sender] <= MOST_FAULTS:
            return 0
        self._faults[sender] = 0
        length = self._length[sender] = min(LONGEST, 2 * self._length.get(sender, ROUNDS // 2))
        self._until[sender] = now + length
        return length

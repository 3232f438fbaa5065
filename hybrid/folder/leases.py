"""Leases: who works on which items, so that two workers rarely do the same. Advisory: they save work, not safety.

The items of a stage are cut into blocks of neighbours. A worker says in its beats which blocks it holds. Others keep
off them while the beat's counter grows, timed by the reader's own clock. A worker that could not say so for long stops
taking new blocks: others may have taken it for dead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.folder.medium import Medium
from hybrid.folder.notes import Note, latest_note, writers
from hybrid.machine.clock import Clock

MOST_BLOCKS = 256


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds between two beats, and how many of them without news make an attempt doubtful, then dead."""

    beat: float = 120.0

    @property
    def suspect(self) -> float:
        return 7.5 * self.beat

    @property
    def reclaim(self) -> float:
        """Its blocks may be taken by whoever has other work, too."""
        return 22.5 * self.beat

    @property
    def idle(self) -> float:
        """Its blocks may be taken by whoever has nothing else to do: doing an item twice costs less than waiting."""
        return 2.5 * self.beat

    @property
    def fence(self) -> float:
        """How long a worker may go without a beat of its own that arrived."""
        return 0.75 * self.reclaim


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest beat of an attempt, and when it was first seen here."""

    number: int
    when: float
    beat: Note


class Watch:
    """What this process has heard from the other attempts at a run, timed by its own clock."""

    def __init__(self, clock: Clock, own: str = "", gone: Collection[str] = ()) -> None:
        self._clock, self._own, self._gone = clock, own, gone  # gone: attempts that are known to be dead
        self.heard: dict[str, Heard] = {}

    def look(self, medium: Medium, run: str) -> None:
        """Read the newest beats. Raises Temporary when they cannot be listed."""
        for by in writers(medium, run, "beat"):
            if by == self._own:
                continue
            beat = latest_note(medium, run, "beat", by, [])
            before = self.heard.get(by)
            if beat is not None and (before is None or beat["number"] > before.number):
                self.heard[by] = Heard(int(beat["number"]), self._clock.now(), beat)

    def silent(self, attempt: str) -> float:
        """Seconds since the attempt's counter last changed, as seen from here; infinite when it has ended."""
        heard = self.heard[attempt]
        ended = heard.beat.get("state") == "ended" or attempt in self._gone
        return math.inf if ended else self._clock.now() - heard.when

    def claimed(self, stage: str, size: int, within: float) -> set[int]:
        """The blocks that attempts not silent for `within` seconds hold."""
        found: set[int] = set()
        for attempt, heard in list(self.heard.items()):
            if self.silent(attempt) < within:
                found |= claims_of(heard.beat, stage, size)
        return found


def claims_of(beat: Mapping[str, Any], stage: str, size: int) -> set[int]:
    """The blocks that a beat claims in a stage, if it cuts them as we do; a beat may have been made by anybody."""
    claim = beat.get("claim")
    if not isinstance(claim, dict) or claim.get("stage") != stage or claim.get("size") != size:
        return set()
    blocks = claim.get("blocks")
    return {one for one in blocks if isinstance(one, int)} if isinstance(blocks, list) else set()


def block_size(items: int) -> int:
    """How many neighbours make a block."""
    return max(1, math.ceil(items / MOST_BLOCKS))


def choose(free: Collection[int], taken: Collection[int], last: int | None, start: int) -> int | None:
    """The next block to take of those that are `free`, while others hold `taken`.

    Neighbours of the `last` one follow, so that prompts that begin alike stay together. Whoever would run into
    another's next block jumps to the middle of the longest stretch that nobody is about to reach.
    """
    if not free:
        return None
    if not taken:
        place = start if last is None else last + 1
        return min(free, key=lambda block: (block < place, block))
    count = max(*free, *taken) + 1
    behind = {block: min((block - one) % count or count for one in taken) for block in free}  # how near they follow
    if last is not None and behind.get(last + 1, 0) > 2:
        return last + 1
    middle = (max(behind.values()) + 1) / 2
    return min(free, key=lambda block: (abs(behind[block] - middle), block))

"""Leases: which worker holds which items, so that two workers rarely do the same. They are advisory: correctness does
not depend on them, they only save work.

The items of a stage are cut into blocks of neighbours; those of a search, which are not known beforehand, are claimed
one by one, with a block size of 0. A worker lists the blocks that it holds in its heartbeats ("beats"). Other workers
do not take these while the beat's number grows, timed by their own clocks. A worker that could write no beat for long
takes no new blocks: others may have reclaimed its blocks.
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
class LeaseTimeouts:
    """Seconds between two beats, and the time-outs that follow from it; all in seconds."""

    beat: float = 120.0

    @property
    def suspect(self) -> float:
        """Time without a new beat after which an attempt is shown as silent."""
        return 7.5 * self.beat

    @property
    def reclaim(self) -> float:
        """Time without a new beat after which any worker may take an attempt's blocks."""
        return 22.5 * self.beat

    @property
    def idle(self) -> float:
        """Time without a new beat after which an idle worker may take them: cheaper than waiting."""
        return 2.5 * self.beat

    @property
    def fence(self) -> float:
        """Time without a written beat of its own after which a worker takes no new blocks."""
        return 0.75 * self.reclaim


@dataclass(frozen=True, slots=True)
class LastBeat:
    """The newest beat of an attempt, and when it was first seen here."""

    number: int
    when: float
    beat: Note


class BeatMonitor:
    """The newest beats of the other attempts at a run, timed by this process's own clock."""

    def __init__(self, clock: Clock, own: str = "", gone: Collection[str] = ()) -> None:
        self._clock, self._own, self._gone = clock, own, gone  # gone: attempts that are known to be dead
        self.latest: dict[str, LastBeat] = {}

    def look(self, medium: Medium, run: str) -> None:
        """Read the newest beats. Raises Temporary when they cannot be listed."""
        for by in writers(medium, run, "beat"):
            if by == self._own:
                continue
            beat = latest_note(medium, run, "beat", by, [])
            before = self.latest.get(by)
            if beat is not None and (before is None or beat["number"] > before.number):
                self.latest[by] = LastBeat(int(beat["number"]), self._clock.now(), beat)

    def silent(self, attempt: str) -> float:
        """Seconds since the attempt's counter last changed, as seen from here; infinite when it has ended."""
        last = self.latest[attempt]
        ended = last.beat.get("state") == "ended" or attempt in self._gone
        return math.inf if ended else self._clock.now() - last.when

    def claimed(self, stage: str, size: int, within: float) -> set[int]:
        """The blocks held by attempts whose last beat is less than `within` seconds old."""
        found: set[int] = set()
        for attempt, last in list(self.latest.items()):
            if self.silent(attempt) < within:
                found |= claims_of(last.beat, stage, size)
        return found

    def at_work(self, stage: str, size: int, within: float, roles: Collection[str] | None = None) -> set[str]:
        """The attempts whose last beat is less than `within` seconds old and claims blocks of that stage, or none.

        Of a search that is divided: those that answer for the same `roles`.
        """
        wanted = None if roles is None else sorted(roles)
        return {
            attempt
            for attempt, last in list(self.latest.items())
            if self.silent(attempt) < within
            and (claim := _claim(last.beat, stage, size)) is not None
            and claim.get("roles") == wanted
        }

    def without_block(self, stage: str, size: int, within: float) -> set[str]:
        """Those of the attempts at work on a stage that claim no block: they wait for one."""
        return {one for one in self.at_work(stage, size, within) if not claims_of(self.latest[one].beat, stage, size)}

    def rank(self, attempts: Collection[str]) -> int:
        """How many of these attempts have names that come before that of this process."""
        return sum(one < self._own for one in attempts)

    def claimed_first(self, stage: str, size: int, within: float) -> set[int]:
        """The blocks held by attempts whose names come before that of this process, which gives way to them."""
        first = [one for one in self.at_work(stage, size, within) if one < self._own]
        return {block for one in first for block in claims_of(self.latest[one].beat, stage, size)}


def claims_of(beat: Mapping[str, Any], stage: str, size: int) -> set[int]:
    """The blocks that a beat claims in a stage, if its block size is ours. The beat is untrusted input."""
    claim = _claim(beat, stage, size)
    blocks = claim.get("blocks") if claim else None
    return {one for one in blocks if isinstance(one, int)} if isinstance(blocks, list) else set()


def _claim(beat: Mapping[str, Any], stage: str, size: int) -> Mapping[str, Any] | None:
    claim = beat.get("claim")
    if not isinstance(claim, dict) or claim.get("stage") != stage or claim.get("size") != size:
        return None
    return claim


def block_size(items: int) -> int:
    """How many neighbouring items make a block."""
    return max(1, math.ceil(items / MOST_BLOCKS))


def choose(free: Collection[int], taken: Collection[int], last: int | None, start: int) -> int | None:
    """The next block to take of those that are `free`, while others hold `taken`.

    The block after the `last` one is preferred, so that prompts with a common prefix stay together. When another worker
    is about to reach it, the middle of the longest free stretch is taken instead.
    """
    if not free:
        return None
    if not taken:
        place = start if last is None else last + 1
        return min(free, key=lambda block: (block < place, block))
    count = max(*free, *taken) + 1
    # the distance of each free block to the nearest taken one before it
    behind = {block: min((block - one) % count or count for one in taken) for block in free}
    if last is not None and behind.get(last + 1, 0) > 2:
        return last + 1
    middle = (max(behind.values()) + 1) / 2
    return min(free, key=lambda block: (abs(behind[block] - middle), block))

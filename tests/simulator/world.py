"""Virtual time, one random generator, and the event queue. One seed gives one history."""

from __future__ import annotations

import heapq
import math
import random
import zlib
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

from tests.simulator.actor import Actor
from tests.simulator.cloud import Cloud
from tests.simulator.faults import NONE, Faults
from tests.simulator.human import Human

T = TypeVar("T")

SETTLE = 120.0
"""Seconds after `calm` within which everything that is still to come has arrived."""


class World:
    """The cloud, the machines that mount it and the people who touch it.

    Chance is drawn by `rng.random()` alone and never by anything that depends on content, so that another time of day
    in a file changes nothing else.
    """

    def __init__(self, seed: int, faults: Faults = NONE, *, spared: Callable[[str], bool] = lambda path: False) -> None:
        """`spared`: paths that F19, F23 and F26 never touch by themselves."""
        self.seed, self.faults, self.spared = seed, faults, spared
        self.rng = random.Random(seed)
        self.time = 0.0
        self.quota_until = 0.0
        self.trace: list[tuple[object, ...]] = []
        self.actors: dict[str, Actor] = {}
        self.cloud = Cloud(self)
        self.human = Human(self)
        self.walls = 0  # how often they were perturbed
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count(1)

    def actor(self, name: str) -> Actor:
        """A new machine that has mounted the folder. A name is free again when its machine is dead."""
        if name in self.actors and not self.actors[name].dead:
            raise ValueError(f"{name} is alive")
        self.actors.pop(name, None)
        self.actors[name] = actor = Actor(self, name)
        actor.view.mount()
        return actor

    def advance(self, seconds: float) -> None:
        """Let time pass: what is due happens, and people and sync programs may do something."""
        self.wait(seconds)
        if self.hit("F19"):
            self.human.meddle()
        if self.hit("F23"):
            self.human.mistaken_sync()
        if self.hit("F26"):
            self.human.back_up_or_restore()

    def wait(self, seconds: float) -> None:
        """Let time pass within a call."""
        until = self.time + seconds
        while self._queue and self._queue[0][0] <= until:
            when, _, act = heapq.heappop(self._queue)
            self.time = max(self.time, when)
            act()
        self.time = until

    def calm(self) -> None:
        """No more faults: mounts heal, quota and disks are free, and what is pending arrives within SETTLE seconds.

        What was lost stays lost, what was made twice or by a person stays; a frozen machine stays frozen.
        """
        self.note("world", "calm")
        self.faults = NONE
        self.quota_until = self.time
        self._queue = [(min(when, self.time + SETTLE / 2), number, act) for when, number, act in self._queue]
        heapq.heapify(self._queue)
        for actor in self.actors.values():
            actor.calm()

    def perturb_walls(self) -> None:
        """Set every wall clock, also of machines to come, to another time. Nothing else changes."""
        self.walls += 1

    def wall_error(self, name: str) -> float:
        """By how many seconds a machine's wall clock is wrong."""
        shift = random.Random(f"{self.seed} {name} {self.walls}").uniform(-1, 1) * 365 * 86400
        return shift if self.walls or self.faults.rates.get("F17") else 0.0

    def hit(self, fault: str) -> bool:
        """Whether a fault strikes on this occasion."""
        rate = self.faults.rates.get(fault, 0.0)
        return rate > 0 and self.rng.random() < rate

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        keys = [self.rng.random() for _ in items]
        return [items[one] for one in sorted(range(len(items)), key=keys.__getitem__)]

    def long(self, low: float, high: float) -> float:
        """A number of seconds of any order of magnitude between two."""
        return low * math.exp(self.rng.random() * math.log(high / low))

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Have something happen at a time; at equal times in the order of asking."""
        heapq.heappush(self._queue, (when, next(self._numbers), act))

    def number(self) -> int:
        """A number that nothing else has."""
        return next(self._numbers)

    def note(self, who: str, what: str, *details: object) -> None:
        """Add to the trace; bytes stand there as length and checksum."""
        said = [(len(one), zlib.crc32(one)) if isinstance(one, bytes) else one for one in details]
        self.trace.append((round(self.time, 3), who, what, *said))

"""When the updates of clients with unequal devices arrive, on a virtual clock: nothing here takes or reads real time.

A client fetches its model, computes, and sends its update; on the way it may drop out. Three ways to go on:

- `sync`: a round waits for all clients.
- `deadline`: a round takes who arrived before the deadline, or the first one if there is none. The others stop.
- `buffered`: the server goes on as soon as a number of updates wait; the other clients keep computing from the version
  they fetched (FedBuff, arXiv 2106.06639). An update that is t versions old counts (1 + t) ** -0.5; one that is too
  old is discarded, and its client begins again from the newest version. Who has sent waits for the next version.

Everything drawn depends on the seed, the client and the number of its attempt alone. So a run is the same whoever
computes it, and goes on from `state`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from hybrid.canonical import Json

Mode = Literal["sync", "deadline", "buffered"]
MOST_DROPOUT = 0.9


@dataclass(frozen=True, slots=True)
class Device:
    """A client's device: memory in bytes, speed in floating-point operations a second, links in bytes a second.

    `dropout`: the chance that an attempt ends before its update arrives, at any moment of it alike. `spread`: the
    standard deviation of the logarithm of the computing time.
    """

    memory: int
    speed: float
    up: float
    down: float
    dropout: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        rates = (self.speed, self.up, self.down)
        if self.memory <= 0 or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"memory, speed, up and down of a device are above 0: {self}")
        if not (0 <= self.dropout <= MOST_DROPOUT and 0 <= self.spread < math.inf):
            raise ValueError(f"dropout is 0 to {MOST_DROPOUT}, spread at least 0: {self}")


GIB, MBIT = 1024**3, 125_000.0
DEVICES: Mapping[str, Device] = {
    "cpu-2gb": Device(2 * GIB, 20e9, 10 * MBIT, 50 * MBIT, dropout=0.05, spread=0.3),
    "tablet-4gb": Device(4 * GIB, 60e9, 20 * MBIT, 100 * MBIT, dropout=0.03, spread=0.2),
    "laptop-8gb": Device(8 * GIB, 250e9, 40 * MBIT, 250 * MBIT, dropout=0.01, spread=0.1),
    "gpu-16gb": Device(16 * GIB, 4e12, 100 * MBIT, 500 * MBIT, dropout=0.0, spread=0.05),
}
"""Examples of devices by name: what such a one sustains in training, not its peak."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a client does for one update: bytes that it fetches and sends, floating-point operations between them."""

    operations: float
    download: int
    upload: int


def training_operations(parameters: int, tokens: int) -> float:
    """Of training an adapter on so many tokens: 2 a parameter and token forward, and 2 for the gradients of the
    activations; the frozen weights have none.
    """
    return 4.0 * parameters * tokens


def full_training_operations(parameters: int, tokens: int) -> float:
    """Of training all weights: 2 more, for their own gradients."""
    return 6.0 * parameters * tokens


@dataclass(frozen=True, slots=True)
class Arrival:
    """An update that the server uses: when it arrived, how many versions it is old, and the factor of its weight."""

    client: int
    seconds: float
    staleness: int = 0

    @property
    def weight(self) -> float:
        """(1 + staleness) ** -0.5."""
        return 1.0 / math.sqrt(1.0 + self.staleness)


@dataclass(frozen=True, slots=True)
class TimedRound:
    """A round: the updates in the order of their arrival, and when it began and ended, in virtual seconds.

    `late` clients missed the deadline. `refreshed` ones were too stale, and fetched the version before this round's
    before they went on. `dropped` counts attempts that never arrived.
    """

    arrivals: tuple[Arrival, ...]
    began: float
    ended: float
    late: tuple[int, ...] = ()
    refreshed: tuple[int, ...] = ()
    dropped: int = 0


@dataclass(slots=True)
class VirtualClock:
    """The rounds of a federation of `devices`, one a client. Raises ValueError for settings that make none.

    `deadline`: virtual seconds of a round, of `deadline`. `buffer`: updates that are waited for, and `most_stale`:
    versions that an update may be old, of `buffered`.
    """

    devices: Sequence[Device]
    mode: Mode
    seed: int
    deadline: float = math.inf
    buffer: int = 1
    most_stale: int = 10
    now: float = 0.0
    version: int = 0
    _attempts: dict[int, int] = field(default_factory=dict)
    _flying: dict[int, tuple[float, bool, int]] = field(default_factory=dict)  # until when, arrives, from which version

    def __post_init__(self) -> None:
        if not self.devices or not self.deadline > 0 or self.most_stale < 0:
            raise ValueError("a clock has clients, a deadline above 0 and no staleness below 0")
        if not 1 <= self.buffer <= len(self.devices):
            raise ValueError(f"buffer={self.buffer} of {len(self.devices)} clients")

    def round(self, work: Mapping[int, Work]) -> TimedRound:
        """The next round, of the clients of `work`: what each does if it begins now.

        With `buffered` those that are still computing must be among them: they begin again when they drop out.
        """
        if not work or min(work) < 0 or max(work) >= len(self.devices) or not work.keys() >= self._flying.keys():
            raise ValueError(
                f"work of the clients {sorted(work)}, of {len(self.devices)}; {sorted(self._flying)} compute"
            )
        found = self._buffered(work) if self.mode == "buffered" else self._together(work)
        self.now = found.ended
        self.version += 1
        return found

    @property
    def computing(self) -> AbstractSet[int]:
        """The clients that are still computing, with `buffered`."""
        return self._flying.keys()

    def _together(self, work: Mapping[int, Work]) -> TimedRound:
        """All begin at once; if all drop out, they begin again."""
        limit = self.now + (self.deadline if self.mode == "deadline" else math.inf)
        began, start, dropped = self.now, self.now, 0
        while True:
            ends = {client: self._attempt(client, one, start) for client, one in sorted(work.items())}
            arrived = sorted((end, client) for client, (end, arrives) in ends.items() if arrives)
            dropped += len(ends) - len(arrived)
            if arrived:
                break
            start = max(end for end, _ in ends.values())
        last = max(limit, arrived[0][0])
        used = tuple(Arrival(client, end) for end, client in arrived if end <= last)
        late = tuple(sorted(client for end, client in arrived if end > last))
        ended = min(last, max(end for end, _ in ends.values()))
        return TimedRound(used, began, ended, late, dropped=dropped)

    def _buffered(self, work: Mapping[int, Work]) -> TimedRound:
        """Events in the order of time, and of clients at the same time, until enough updates wait."""
        began, dropped, refreshed = self.now, 0, []
        for client, one in sorted(work.items()):
            if client not in self._flying:
                self._fly(client, one, self.now, self.version)
        if len(self._flying) < self.buffer:
            raise ValueError(f"buffer={self.buffer} of {len(self._flying)} clients that compute")
        events = [(end, client) for client, (end, _, _) in self._flying.items()]
        heapq.heapify(events)
        waiting: list[Arrival] = []
        while len(waiting) < self.buffer:
            end, client = heapq.heappop(events)
            _, arrives, version = self._flying.pop(client)
            if arrives and self.version - version <= self.most_stale:
                waiting.append(Arrival(client, end, self.version - version))
                continue
            if arrives:
                refreshed.append(client)
                version = self.version
            dropped += not arrives
            self._fly(client, work[client], end, version)
            heapq.heappush(events, (self._flying[client][0], client))
        return TimedRound(tuple(waiting), began, waiting[-1].seconds, (), tuple(refreshed), dropped)

    def _fly(self, client: int, work: Work, start: float, version: int) -> None:
        end, arrives = self._attempt(client, work, start)
        self._flying[client] = (end, arrives, version)

    def _attempt(self, client: int, work: Work, start: float) -> tuple[float, bool]:
        """When a client's next attempt ends, and whether its update then arrives."""
        device, number = self.devices[client], self._attempts.get(client, 0)
        self._attempts[client] = number + 1
        draws = Random(f"{self.seed} client {client} attempt {number}")
        seconds = work.operations / device.speed * math.exp(draws.gauss(0.0, 1.0) * device.spread)
        seconds += work.download / device.down + work.upload / device.up
        arrives = draws.random() >= device.dropout
        return start + (seconds if arrives else seconds * draws.random()), arrives

    def state(self) -> dict[str, Json]:
        """All that later rounds depend on, for JSON."""
        flying: dict[str, Json] = {str(client): list(one) for client, one in sorted(self._flying.items())}
        attempts: dict[str, Json] = {str(client): number for client, number in sorted(self._attempts.items())}
        return {"now": self.now, "version": self.version, "attempts": attempts, "flying": flying}

    def load(self, state: Mapping[str, Json]) -> None:
        """Go on from what `state` gave. Raises ValueError, KeyError or TypeError for what it never gives."""
        now, version, attempts, flying = (state[name] for name in ("now", "version", "attempts", "flying"))
        if not isinstance(attempts, dict) or not isinstance(flying, dict):
            raise TypeError("attempts and flying are objects")
        self._attempts = {self._client(client): int(str(number)) for client, number in attempts.items()}
        self.now, self.version, self._flying = float(str(now)), int(str(version)), {}
        if not 0 <= self.now < math.inf or self.version < 0:
            raise ValueError(f"version {self.version} after {self.now} seconds")
        if flying and self.mode != "buffered":
            raise ValueError(f"{len(flying)} clients compute between two rounds")
        for client, one in flying.items():
            if not isinstance(one, list) or len(one) != 3 or not isinstance(one[1], bool):
                raise TypeError(f"not an attempt: {one!s:.100}")
            end, since = float(str(one[0])), int(str(one[2]))
            if not self.now <= end < math.inf or not 0 <= since <= self.version:
                raise ValueError(f"client {client:.20} computes from version {since} until {end} seconds")
            self._flying[self._client(client)] = (end, one[1], since)

    def _client(self, name: str) -> int:
        if not 0 <= int(name) < len(self.devices):
            raise ValueError(f"client {name:.20} of {len(self.devices)}")
        return int(name)

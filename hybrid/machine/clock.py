"""Time, as the protocol may use it: how long ago something was seen here, never what another machine's clock says."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """This machine's clock."""

    def now(self) -> float:
        """Seconds since some moment, never going back; the time that this machine slept counts."""
        ...

    def stamp(self) -> str:
        """The time of day in UTC, for people to read; nothing is decided by it."""
        ...


class SystemClock:
    """The clock of the operating system.

    Monotonic clocks stand still while a laptop sleeps, wall clocks jump: of two readings the longer way counts, so a
    jump can only make something look older than it is, which costs work and never safety.
    """

    def __init__(self) -> None:
        self._seconds, self._monotonic, self._wall = 0.0, time.monotonic(), time.time()
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            monotonic, wall = time.monotonic(), time.time()
            self._seconds += max(monotonic - self._monotonic, wall - self._wall, 0.0)
            self._monotonic, self._wall = monotonic, wall
            return self._seconds

    def stamp(self) -> str:
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

"""Elapsed time and time stamps of this machine. The protocol never compares the clocks of two machines."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """This machine's clock."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; they never decrease, and include the time that this machine slept."""
        ...

    def stamp(self) -> str:
        """The date and time in UTC, for people to read; no decision depends on it."""
        ...


class SystemClock:
    """The clock of the operating system.

    A monotonic clock stands still while a laptop sleeps, and a wall clock jumps. Between two readings the larger of the
    two differences counts. So a jump can only make something look older than it is, which costs work, never safety.
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

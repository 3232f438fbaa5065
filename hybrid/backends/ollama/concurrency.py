"""An adaptive limit of the requests in flight: as many as the server computes at a time, and one that waits.

Ollama does not report how many requests it computes at a time. It follows from how long requests wait in its queue, by
Little's law: of L requests in flight, the server computes L times the fraction of time that they do not wait.
"""

from __future__ import annotations

START = 4
MAX_PARALLEL = 64
SMOOTHING = 0.2
"""Weight of one reply in the exponential moving average."""


class ConcurrencyLimit:
    """`limit` is the number of requests that may be in flight; constant when `fixed` is given."""

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self._busy = START - 1.0
        self.limit = fixed or START
        self.in_flight = 0
        """Requests in flight, set by whoever sends them."""

    def finished(self, *, waited: float, served: float) -> None:
        """Record a reply: seconds that its request waited in the server, and seconds that it was computed."""
        if waited + served <= 0:
            return
        busy = self.in_flight * served / (waited + served)
        self._busy += SMOOTHING * (busy - self._busy)
        self._set(round(self._busy) + 1)

    def refused(self) -> None:
        """The server's queue is full: halve the limit."""
        self._busy = max(1.0, self._busy / 2)
        self._set(self.limit // 2)

    def _set(self, limit: int) -> None:
        self.limit = self._fixed or min(max(1, limit), MAX_PARALLEL)

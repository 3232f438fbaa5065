"""How many requests are in flight: as many as the server works on at a time, and about one that waits for its turn.

Ollama does not tell how many it works on. It does show: a reply's first token comes late by the time that the request
waited in the server. Of L requests in flight, L times the share of time not spent waiting are being worked on.
"""

from __future__ import annotations

START = 4
MOST = 64
WEIGHT = 0.2
"""How much one reply counts against all before it."""


class Pace:
    """The number in flight, `limit`; `fixed` when a person has set it."""

    def __init__(self, fixed: int = 0) -> None:
        self._fixed = fixed
        self._busy = START - 1.0
        self.limit = fixed or START
        self.flying = 0
        """Requests in flight, as whoever sends them says."""

    def finished(self, *, waited: float, served: float) -> None:
        """A reply came: seconds that it waited in the server, and seconds that it was worked on."""
        if waited + served <= 0:
            return
        busy = self.flying * served / (waited + served)
        self._busy += WEIGHT * (busy - self._busy)
        self._set(round(self._busy) + 1)

    def refused(self) -> None:
        """The server's queue is full."""
        self._busy = max(1.0, self._busy / 2)
        self._set(self.limit // 2)

    def _set(self, limit: int) -> None:
        self.limit = self._fixed or min(max(1, limit), MOST)

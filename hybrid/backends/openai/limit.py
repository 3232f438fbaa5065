"""How many requests may be in flight: halved when the server is busy, then slowly more again."""

from __future__ import annotations


class RequestLimit:
    """`limit` is at most `most`; it grows by one for each `limit` answers, as TCP's congestion window does."""

    def __init__(self, most: int) -> None:
        self._most, self._room = most, float(most)
        self.limit = most
        self.in_flight = 0
        """Requests in flight, set by whoever sends them."""

    def answered(self) -> None:
        """An answer came."""
        self._set(self._room + 1 / self._room)

    def refused(self) -> None:
        """The server has too much to do. One batch of refusals halves once: what is above the limit was sent before."""
        if self.in_flight <= self.limit:
            self._set(self._room / 2)

    def _set(self, room: float) -> None:
        self._room = min(max(1.0, room), float(self._most))
        self.limit = int(self._room)

"""A clock that stands still until a test moves it."""

from __future__ import annotations


class ManualClock:
    """`time` is what it shows, in seconds."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def stamp(self) -> str:
        return "2026-01-01T00:00:00Z"

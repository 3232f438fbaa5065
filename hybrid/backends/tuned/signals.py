"""Ctrl-C and its like while adapters train: heard at once, obeyed after the pass, when its state has been kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

POLITE = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


@contextmanager
def heard() -> Iterator[Callable[[], bool]]:
    """A function that tells whether a signal has asked for the end. A second one acts as it would have without this.

    Signals that are ignored stay so, and outside of the main thread nothing is changed.
    """
    asked: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if asked and callable(before[number]):
            before[number](number, frame)
        asked.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in set(POLITE):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

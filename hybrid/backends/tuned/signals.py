"""Signals that ask for the end while adapters train: noted at once, obeyed after the pass, when its state is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

POLITE = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether a signal has asked for the end. A second signal acts as it would without this.

    Ignored signals stay ignored. Outside the main thread nothing is changed.
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

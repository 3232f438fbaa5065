"""Signals that ask this process to end: Ctrl-C, SIGTERM and, where the system has it, SIGHUP.

Python calls a signal's handler between any two instructions of the main thread. Work that must not be cut there
replaces the handlers for its duration, notes the signal, and obeys it at a point of its own choice.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any]
"""What Python calls with a signal's number and the interrupted frame."""

TERMINATION = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP
"""Sent by other programs: a service manager, a terminal that closes."""


@contextmanager
def replaced_handlers(handle: Callable[[Handler, int, FrameType | None], None]) -> Iterator[None]:
    """Within the block, call `handle` with the replaced handler, the signal's number and the frame.

    Signals that are ignored, or whose action is the system's default, keep it. Outside the main thread, where Python
    allows no handlers, nothing is changed.
    """
    replaced: dict[int, Handler] = {}
    if threading.current_thread() is threading.main_thread():
        for number in {signal.SIGINT, *TERMINATION}:
            handler = signal.getsignal(number)
            if callable(handler):
                replaced[number] = handler
                signal.signal(number, partial(handle, handler))
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Within the block, only note the first signal; the function that is yielded returns whether there was one.

    A second signal reaches the handler that was there before.
    """
    noted: list[int] = []

    def note(handler: Handler, number: int, frame: FrameType | None) -> None:
        if noted:
            handler(number, frame)
        noted.append(number)

    with replaced_handlers(note):
        yield lambda: bool(noted)


def interrupt_on_termination(*also: signal.Signals) -> None:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP, and for the signals in `also`."""
    for number in (*also, *TERMINATION):
        signal.signal(number, signal.default_int_handler)

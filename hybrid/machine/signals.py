"""Signals that ask this process to end: Ctrl-C, SIGTERM and, where the system has it, SIGHUP.

Python calls a signal's handler between any two instructions of the main thread. Work that must not be cut there
replaces the handlers for its duration, notes the signal, and obeys it at a point of its own choice.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn, TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], Any]
"""What Python calls with a signal's number and the interrupted frame."""

TERMINATION = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP
"""Sent by other programs: a service manager, a terminal that closes."""


AGAIN = 30.0
"""Seconds after which a block raises once more: what follows on the first signal hangs, or its exception was lost in
a function whose exceptions Python ignores, such as `__del__`."""


class Stops:
    """A handler that counts the signals that ask for the end, and raises KeyboardInterrupt in chosen blocks alone, in
    each of them once in `AGAIN` seconds. `then` is called at each signal.

    So a second and a third signal can neither cut what follows on the first one, nor change the exit code.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self.count = 0
        self._then = then
        self._limit: int | None = None  # one signal more is obeyed; None: none is
        self._raised = -AGAIN
        self._interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            self._interrupted = False
            self._raise()
            return
        self.count += 1
        self._then()
        self._obey()

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the main thread, from another one, as a signal does that is not counted."""
        self._interrupted = True
        _thread.interrupt_main()

    def _obey(self) -> None:
        if self._limit is not None and self.count > self._limit:
            self._raise()

    def _raise(self) -> None:
        if self._limit is not None and time.monotonic() - self._raised >= AGAIN:
            self._raised = time.monotonic()  # the clauses `finally` of the block, which follow, run to their ends
            raise KeyboardInterrupt

    @contextmanager
    def obeyed(self, after: int) -> Iterator[None]:
        """Raise KeyboardInterrupt once more than `after` signals have come, before the block or in it."""
        self._limit, self._raised = after, -AGAIN
        try:
            self._obey()
            yield
        finally:
            self._limit = None


def counted_signals(then: Callable[[], None] = lambda: None) -> Stops:
    """Count Ctrl-C, SIGTERM and SIGHUP from now on, until this process ends with `end_with`."""
    stops = Stops(then)
    for number in (signal.SIGINT, *TERMINATION):  # a shell starts background jobs with SIGINT ignored
        signal.signal(number, stops)
    return stops


class _End:
    """A handler that ends this process at once, with the exit code that it was about to have."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __call__(self, number: int, frame: FrameType | None) -> None:
        os._exit(self._code)


def end_with(code: int) -> None:
    """From now on nothing is left but to end with `code`: a signal that was counted until now ends it sooner."""
    for number in {signal.SIGINT, *TERMINATION}:
        if isinstance(signal.getsignal(number), Stops):
            signal.signal(number, _End(code))


def _end_now() -> None:
    """End a process of `end_with` without taking the interpreter apart, which would restore the system's handlers: then
    a signal changes the exit code, and if it were ignored, what hangs there could not be ended by one.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _End):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed or none
                stream.flush()
        handler(signal.SIGTERM, None)


atexit.register(_end_now)  # what is registered later, by the libraries of a command, is called earlier


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


class Noted:
    """Whether a signal was noted, and what obeys it. `then` is called once it is."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._then = then
        self._handle: Callable[[], Any] | None = None
        self.waits = False
        """Whether neither it nor another one has reached its handler yet."""

    def __call__(self) -> bool:
        return self._handle is not None

    def obey(self) -> NoReturn:
        """Hand the signal over to the handler that it was meant for, and raise KeyboardInterrupt if that did not."""
        self.waits = False
        if self._handle is not None:
            self._handle()
        raise KeyboardInterrupt

    def note(self, handler: Handler, number: int, frame: FrameType | None) -> None:
        """Keep the first signal; a second one reaches its handler."""
        if self._handle is not None:
            self.waits = False
            handler(number, frame)
        else:
            self._handle, self.waits = partial(handler, number, None), True
            self._then()


@contextmanager
def noted_signals(then: Callable[[], None] = lambda: None) -> Iterator[Noted]:
    """Within the block, only note the first signal, and call `then`. A second one reaches the handler that was there
    before.
    """
    noted = Noted(then)
    with replaced_handlers(noted.note):
        yield noted


@contextmanager
def deferred_signals(then: Callable[[], None] = lambda: None) -> Iterator[Noted]:
    """As `noted_signals`; what the block did not obey is obeyed at its end, whatever has ended it."""
    noted: Noted | None = None
    try:
        with noted_signals(then) as noted:
            yield noted
    finally:
        if noted and noted.waits:
            noted.obey()


def interrupt_on_termination(*also: signal.Signals) -> None:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP, and for the signals in `also`."""
    for number in (*also, *TERMINATION):
        signal.signal(number, signal.default_int_handler)

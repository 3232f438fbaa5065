"""Termination signals that end a command in order, as Ctrl-C does."""

from __future__ import annotations

import signal

TERMINATION = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no SIGHUP


def interrupt_on_termination(*also: signal.Signals) -> None:
    """Raise KeyboardInterrupt in the main thread for SIGTERM and SIGHUP, and for the signals in `also`."""
    for number in (*also, *TERMINATION):
        signal.signal(number, signal.default_int_handler)

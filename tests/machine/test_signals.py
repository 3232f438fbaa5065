"""Signals that ask for the end: noted while work must not be cut, then obeyed; handlers are restored."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from hybrid.machine.signals import deferred_signals


@pytest.fixture(autouse=True)
def _obeyed_ctrl_c() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_is_obeyed_at_once_and_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_signals() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)

"""Signals that ask for the end: noted while work must not be cut, then obeyed; handlers are restored."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hybrid.machine.signals import TERMINATION, counted_signals, deferred_signals, noted_signals


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


def test_a_deferred_signal_is_obeyed_at_the_end_of_the_block_whatever_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_signals():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as raised, deferred_signals():
        int("no number", base=signal.raise_signal(signal.SIGINT) or 10)
    assert isinstance(raised.value.__context__, ValueError)
    with noted_signals() as asked:
        signal.raise_signal(signal.SIGINT)
    assert asked()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def _restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in TERMINATION}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_restored")
def test_counted_signals_are_obeyed_in_chosen_blocks_alone() -> None:
    stops = counted_signals()
    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=0):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)  # between two blocks none cuts anything
    signal.raise_signal(signal.SIGINT)
    assert stops.count == 3
    with stops.obeyed(after=3):
        pass
    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=2):
        pytest.fail("one more than are borne has come before")
    with stops.obeyed(after=4):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("_restored")
def test_a_second_signal_does_not_cut_what_follows_on_the_first() -> None:
    stops, closed = counted_signals(), list[str]()

    @contextmanager
    def shard() -> Iterator[None]:
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGTERM)
            closed.append("the shard")

    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=0), shard():
        signal.raise_signal(signal.SIGTERM)
    assert closed
    assert stops.count == 2


class _Swallows:
    """Raises nothing where it ends: Python ignores the exceptions of `__del__`."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("_restored")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_was_lost_is_told_and_a_later_one_ends_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = list[int]()
    stops = counted_signals(lambda: told.append(1))

    def work() -> None:
        _Swallows()
        assert told
        signal.raise_signal(signal.SIGTERM)  # too soon to be told from one that follows on the first
        monkeypatch.setattr("hybrid.machine.signals.AGAIN", 0.0)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the block went on")

    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=0):
        work()
    assert stops.count == len(told) == 3


@pytest.mark.usefixtures("_restored")
def test_an_interruption_from_another_thread_is_not_counted() -> None:
    stops = counted_signals()

    def work() -> None:
        thread = threading.Thread(target=stops.interrupt)
        thread.start()
        thread.join()
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=0):
        work()
    assert stops.count == 0


@pytest.mark.usefixtures("_restored")
def test_a_deferred_signal_is_counted_when_it_is_obeyed() -> None:
    stops, counts = counted_signals(), list[int]()

    def train() -> None:
        with deferred_signals() as asked:
            signal.raise_signal(signal.SIGTERM)
            counts.append(stops.count)
            try:
                asked.obey()
            finally:
                signal.raise_signal(signal.SIGTERM)  # of a user who asks once more: it cuts nothing
                counts.append(stops.count)

    with pytest.raises(KeyboardInterrupt), stops.obeyed(after=0):
        train()
    assert counts == [0, 2]


ENDING = """
import os, signal, sys
from hybrid.machine.signals import counted_signals, end_with

class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGTERM):
        kill(own, number)

counted_signals()
"""
BEFORE, BETWEEN = "Late.__del__(None)\nend_with(5)", "end_with(5)\nLate.__del__(None)"
WHILE = "end_with(5)\nlate = Late()  # which ends with the interpreter"


def test_what_hangs_while_the_interpreter_is_taken_apart_is_not_waited_for() -> None:
    hangs = "class Hangs:\n    def __del__(self, pause=signal.pause):\n        pause()\nhangs = Hangs()"
    last = "import atexit\natexit.register(print, 'last', end='')"
    code = f"{ENDING}{hangs}\n{last}\nprint('first', end=' ')\nend_with(5)\nsys.exit(5)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=240, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "first last")


@pytest.mark.parametrize("moment", [BEFORE, BETWEEN, WHILE], ids=["before", "between", "while"])
def test_a_signal_while_a_process_ends_leaves_its_exit_code_as_it_is(moment: str) -> None:
    code = f"{ENDING}{moment}\nsys.exit(5)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=240).returncode == 5

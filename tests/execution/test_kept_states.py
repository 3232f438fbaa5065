"""What a loop goes on from: states that are none neither hide a good one nor cost much, and a signal loses no round."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from hybrid.errors import BadData, Temporary
from hybrid.execution import kept_states
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.loop_state import LoopState
from hybrid.folder.medium import Disk, Entry
from hybrid.folder.tensors import RunTensors
from hybrid.loops import NotYet
from hybrid.metrics import RoundMetrics

NAME = "0" * 64


@dataclass
class Counts:
    """Makes loops whose state is `counts`, and notes what they do. In a round, `then` is called first."""

    then: Callable[[int], None] = lambda number: None
    made: int = 0
    computed: list[int] = field(default_factory=list)

    def __call__(self) -> Counts:
        self.made += 1
        return self

    def round(self, number: int) -> RoundMetrics:
        self.then(number)
        self.computed.append(number)
        return RoundMetrics(number, {"number": float(number)})

    def state(self) -> bytes:
        return b"counts"

    def load(self, state: bytes) -> None:
        if state != b"counts":
            raise BadData("counts nothing")

    def close(self) -> None:
        """There is nothing to close."""


def kept_in(place: Path, worker: str = "a") -> RunTensors:
    return RunTensors("run", f"20260101t000000z-{worker * 8}", Disk(place))


def packed(place: Path, rounds: int) -> bytes:
    """The state after some rounds."""
    kept = kept_in(place / f"after {rounds}")
    list(LoopRun(Counts(), kept, NAME, rounds, 1000, now=lambda: 0.0).rounds(lambda: True))
    return kept.newest(NAME)[1]  # type: ignore[index]


def lower(good: bytes, wrong: Callable[[int], bytes]) -> bytes:
    """The first of the states `wrong` whose sha256 is lower, so that it is found before the good one."""
    digest = sha256(good).hexdigest()
    return next(data for number in count() if sha256(data := wrong(number)).hexdigest() < digest)


@contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, once at least."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("seconds", [1.0, 100.0])
def test_a_signal_between_two_rounds_loses_none(tmp_path: Path, seconds: float) -> None:
    kept, counts, told, now = kept_in(tmp_path), Counts(), list[int](), 0.0

    def go_on() -> bool:
        nonlocal now
        now += seconds
        if len(counts.computed) == 5:
            signal.raise_signal(signal.SIGTERM)
        return True

    with terminated():
        told += (number for number, _ in LoopRun(counts, kept, NAME, 9, 1000, now=lambda: now).rounds(go_on))
    assert told == counts.computed == list(range(5))
    assert len(LoopState.read(kept.newest(NAME)[1], 9).rounds) == 5  # type: ignore[index]


@pytest.mark.parametrize(("signals", "rounds"), [(1, 4), (2, 0)])
def test_a_signal_in_a_round_tells_what_one_more_would_lose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, signals: int, rounds: int
) -> None:
    def then(number: int) -> None:
        for _ in range(signals if number == 3 else 0):
            signal.raise_signal(signal.SIGTERM)

    kept = kept_in(tmp_path)
    with terminated():
        list(LoopRun(Counts(then), kept, NAME, 9, 1000, now=lambda: 0.0).rounds(lambda: True))
    assert caplog.text.count("one more signal ends it at once, and the rounds since the last state are lost: 3") == 1
    found = kept.newest(NAME)
    assert len(LoopState.read(found[1], 9).rounds if found else ()) == rounds


@pytest.mark.parametrize("foreign", [b"of another version %d", None], ids=["no state", "refused by the loop"])
def test_a_state_that_is_none_does_not_hide_a_good_one_of_the_same_number(
    tmp_path: Path, foreign: bytes | None
) -> None:
    for number in range(4, 7):
        good = packed(tmp_path, number)
        form = good.replace(b"counts", b"%d") if foreign is None else foreign
        kept_in(tmp_path, "a").keep(NAME, number, good)
        kept_in(tmp_path, str(number)).keep(NAME, number, lower(good, lambda one, form=form: form % one))  # type: ignore[misc]
    counts = Counts()
    assert len(list(LoopRun(counts, kept_in(tmp_path, "b"), NAME, 9, 0).rounds(lambda: True))) == 9
    assert counts.computed == [6, 7, 8]


def test_a_state_of_fewer_rounds_than_its_number_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept_in(tmp_path, "b").keep(NAME, 8, packed(tmp_path, 3))
    kept_in(tmp_path).keep(NAME, 5, packed(tmp_path, 5))
    counts = Counts()
    list(LoopRun(counts, kept_in(tmp_path), NAME, 9, 0).rounds(lambda: True))
    assert counts.computed == [5, 6, 7, 8]
    assert "after round 8 of the loop is passed over: the state of a loop: has 3 rounds" in caplog.text


def test_a_signal_whose_state_cannot_be_kept_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(RunTensors):
        def keep(self, name: str, number: int, data: bytes) -> None:
            raise Temporary("no room left", hint="free some")

    def then(number: int) -> None:
        if number == 3:
            signal.raise_signal(signal.SIGTERM)

    kept = Full("run", "20260101t000000z-aaaaaaaa", Disk(tmp_path))
    with terminated():
        list(LoopRun(Counts(then), kept, NAME, 9, 1000, now=lambda: 0.0).rounds(lambda: True))
    assert "the last 4 rounds of a loop are lost: no room left" in caplog.text


@pytest.mark.parametrize("foreign", [b"no state", None], ids=["no state", "refused by the loop"])
def test_a_loop_that_waits_stays_whatever_newer_states_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, foreign: bytes | None
) -> None:
    def then(number: int) -> None:
        if number == 3:
            raise NotYet("the others")

    counts = Counts(then)
    run = LoopRun(counts, kept_in(tmp_path), NAME, 9, 0)
    with pytest.raises(NotYet):
        list(run.rounds(lambda: True))
    kept_in(tmp_path, "b").keep(NAME, 7, foreign or packed(tmp_path, 7).replace(b"counts", b"9"))
    made = list[int]()
    for _ in range(4):
        with pytest.raises(NotYet):
            list(run.rounds(lambda: True))
        made.append(counts.made)
    assert made == [1 if foreign else 3] * 4, "it is tried once"
    assert caplog.text.count("passed over") == 1


def test_many_states_that_are_none_of_one_number_hide_no_older_one(tmp_path: Path) -> None:
    kept_in(tmp_path).keep(NAME, 5, packed(tmp_path, 5))
    for number in range(kept_states.MOST_REFUSED + 1):
        kept_in(tmp_path, "b").keep(NAME, 8, b"no state %d" % number)
    counts = Counts()
    list(LoopRun(counts, kept_in(tmp_path), NAME, 9, 0).rounds(lambda: True))
    assert counts.computed == [5, 6, 7, 8]


def test_no_number_of_states_that_are_none_holds_a_loop_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_states, "MOST_REFUSED", 3)
    listed = list[str]()

    class Listed(Disk):
        def entries(self, place: str) -> list[Entry]:
            listed.append(place)
            return super().entries(place)

    for number in range(4, 9):
        kept_in(tmp_path, str(number)).keep(NAME, number, b"no state")
    kept, counts = RunTensors("run", "20260101t000000z-aaaaaaaa", Listed(tmp_path)), Counts()
    list(LoopRun(counts, kept, NAME, 9, 1000).rounds(lambda: True))
    assert (counts.made, counts.computed) == (1, list(range(9)))
    assert listed.count(f"runs/run/tensors/{NAME}") == 1
    assert caplog.text.count("is passed over") == 3
    assert "3 states of the loop were passed over: no older one is looked for" in caplog.text

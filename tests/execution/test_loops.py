"""Loops: rounds become records once they are safe, a kill redoes little, and two machines' rounds are never mixed."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hybrid import testing
from hybrid.backends.registry import open_backend
from hybrid.errors import BadData, CannotRun, NotFinished, PluginFault
from hybrid.execution import rounds_work
from hybrid.execution.chain import bound
from hybrid.execution.exchange import TensorExchange
from hybrid.execution.index import Index
from hybrid.execution.local import Effort, Engine, LocalResult, run_here
from hybrid.execution.loop_engine import LoopEngine
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.loop_state import LoopState
from hybrid.execution.rounds_work import RoundsWork
from hybrid.execution.stage_view import stage_views
from hybrid.folder.in_memory import InMemoryFolder
from hybrid.folder.medium import Disk
from hybrid.folder.runs import open_run
from hybrid.folder.shards import pack, verify_shard
from hybrid.folder.tensors import RunTensors
from hybrid.loops import Exchange, Lab, NotYet, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.progress import SilentProgress
from hybrid.protocols import Inputs, Stage
from hybrid.records import Output
from hybrid.work import Derive, Derived, Rounds

ROUNDS = 9
Tasks = Mapping[str, Any]


@dataclass
class Sum:
    """Its state is a sum that grows in every round, by what `step` says."""

    step: Callable[[str, int], float]
    name: str = "a"
    total: float = 0.0
    closed: bool = False

    def round(self, number: int) -> RoundMetrics:
        self.total += self.step(self.name, number)
        return RoundMetrics(number, {"total": self.total})

    def state(self) -> bytes:
        return json.dumps(self.total).encode()

    def load(self, state: bytes) -> None:
        try:
            self.total = float(json.loads(state))
        except (TypeError, ValueError) as error:
            raise BadData("no sum") from error

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class Sums:
    """Two series of sums, and a stage that reads the last of them."""

    step: ClassVar[Any] = None

    def inputs(self) -> Inputs:
        return Inputs({"a": 1, "b": 2}, {}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("sums", "any", 1, Rounds(self.series, self.loop)),
            Stage("ends", "any", 1, Derive(self.ends), after=("sums",)),
        )

    def series(self, tasks: Tasks) -> Iterator[Series]:
        return (Series(name, ROUNDS, {"by": by}) for name, by in tasks.items())

    def loop(self, series: Series, lab: Lab, tasks: Tasks) -> Sum:
        return Sum(type(self).step, series.name)

    def ends(self, tasks: Tasks, earlier: Mapping[str, Any]) -> Iterator[Derived]:
        last: dict[str, Output] = {one.task: one for one in earlier["sums"]}
        for name, one in last.items():
            yield Derived(name, f"{name}/end", one.text or "", failure=one.error)


@dataclass
class Place:
    """A folder, runs in it, and the rounds that were computed."""

    root: Path
    step: Callable[[str, int], float] = lambda name, number: float(number)
    computed: list[tuple[str, int]] = field(default_factory=list)

    def run(self, *, retry: bool = False, checkpoint: int = 0) -> LocalResult:
        def step(name: str, number: int) -> float:
            by = self.step(name, number)
            self.computed.append((name, number))
            return by

        Sums.step = staticmethod(step)
        models = {"": Engine("none", "none", {"checkpoint": str(checkpoint)})}
        return run_here(
            self.root / "folder", "sums", Sums(), models, SilentProgress(), effort=Effort(retry_failed=retry)
        )

    def texts(self) -> list[str]:
        (path,) = self.root.glob("folder/results/*/outputs.json")
        return [str(record["text"]) for record in json.loads(path.read_text())["records"]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_round_is_a_record_and_none_is_computed_twice(place: Place) -> None:
    Sums.step = staticmethod(lambda name, number: 1.0)
    testing.check_pipeline(Sums())
    done = place.run()
    assert [(one.name, one.total, one.left, one.failed) for one in done.stages] == [
        ("sums", 2 * ROUNDS, 0, 0),
        ("ends", 2, 0, 0),
    ]
    assert place.texts() == [RoundMetrics(8, {"total": 36.0}).to_text()] * 2
    assert sorted(place.computed) == [(name, number) for name in "ab" for number in range(ROUNDS)]
    again = place.run()
    assert (again.fresh, again.sha256, len(place.computed)) == (0, done.sha256, 2 * ROUNDS)


def test_rounds_that_come_from_a_state_are_not_said_to_be_done_now(place: Place) -> None:
    done = place.run()
    assert done.fresh == 2 * ROUNDS + 2
    for shard in place.root.glob("folder/runs/*/sums/*/*/shard-*"):  # as after a kill: the states are newer
        shard.unlink()
    again = place.run()
    assert (again.fresh, again.sha256, len(place.computed)) == (0, done.sha256, 2 * ROUNDS)


@pytest.mark.parametrize(("checkpoint", "most"), [(0, 100), (1000, 3)])
def test_killed_in_every_round_it_goes_on_from_the_last_state(place: Place, checkpoint: int, most: int) -> None:
    whole, died = Place(place.root / "whole"), set[tuple[str, int]]()
    whole.run()

    def step(name: str, number: int) -> float:
        if (name, number) not in died and len(died) < most:
            died.add((name, number))
            raise KeyboardInterrupt
        return float(number)

    place.step = step
    while len(died) < min(most, 2 * ROUNDS):
        with pytest.raises(NotFinished, match="stopped at"):
            place.run(checkpoint=checkpoint)
    place.run(checkpoint=checkpoint)
    assert place.texts() == whole.texts()
    if not checkpoint:  # each round was kept before the next one began
        assert len(place.computed) == 2 * ROUNDS


def test_a_loop_that_diverges_fails_in_its_remaining_rounds_and_the_others_go_on(place: Place) -> None:
    fail = True

    def step(name: str, number: int) -> float:
        if fail and name == "a" and number == 4:
            raise RoundFailed("diverged", "the sum is too large")
        return float(number)

    place.step = step
    done = place.run()
    assert (done.stages[0].failed, done.stages[0].reasons) == (5, {"diverged": 5})
    assert place.texts() == ["None", RoundMetrics(8, {"total": 36.0}).to_text()]
    computed = len(place.computed)
    assert place.run().fresh == 0
    fail = False
    assert place.run(retry=True).failed == 0
    assert place.computed[computed:] == [("a", number) for number in range(4, ROUNDS)], "from the state after round 3"


def test_faults_of_the_loop_are_told_with_their_place(place: Place) -> None:
    def step(name: str, number: int) -> float:
        return 1 / (number - 3)

    place.step = step
    with pytest.raises(PluginFault, match=r"computing round 3 of '[ab]' in the stage 'sums': ZeroDivisionError"):
        place.run()
    place.step = lambda name, number: float("nan")
    with pytest.raises(PluginFault, match=r"not a? ?finite"):
        place.run()


def test_a_backend_without_loops_is_refused(place: Place) -> None:
    (place.root / "script.json").write_text('{"answers": {}, "default": "x"}')
    models = {"": Engine("scripted", str(place.root / "script.json"))}
    with pytest.raises(CannotRun, match="no loop can run"):
        run_here(place.root / "folder", "sums", Sums(), models, SilentProgress())


def kept_rounds(source: Path, target: Disk, attempt: str, wanted: Callable[[str, int], bool]) -> None:
    """Write a shard with those records of the run in `source` whose series and round are wanted."""
    (path,) = source.glob("folder/runs/*/sums/*/*/shard-*")
    shard = verify_shard(str(path.relative_to(source / "folder")), path.read_bytes())
    told = [(record["task"], json.loads(record["text"])["round"]) for record in shard.records]
    lines = [line for line, one in zip(shard.lines, told, strict=True) if wanted(*one)]
    name, data = pack({**shard.header, "attempt": attempt, "seq": 0}, lines, 0)
    target.write(f"runs/{shard.header['run']}/sums/{attempt}/{name.batch}/{name}", data)


def test_rounds_of_a_trajectory_that_does_not_count_are_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    one, other = Place(tmp_path / "one"), Place(tmp_path / "other", lambda name, number: number + 1e-9)
    run = one.run().run
    other.run()
    shutil.copytree(tmp_path / "one/folder/runs" / run.id, tmp_path / "both/runs" / run.id)
    shutil.rmtree(tmp_path / "both/runs" / run.id / "sums")
    both = Disk(tmp_path / "both")
    kept_rounds(one.root, both, "20260101t000000z-00000001", lambda name, number: name == "b" or number < 5)
    kept_rounds(other.root, both, "20260102t000000z-00000002", lambda name, number: name == "a" and number > 3)
    chain = bound(open_run(both, run.id), Sums())
    store, stages = Disk(tmp_path / "store"), [(stage.name, stage) for stage in chain.stages]
    with closing(Index(tmp_path / "index")) as index:
        for _ in range(2):
            view = stage_views(chain.run, stages, store, index, ())[0]
            assert (view.total, view.done, view.left, view.failed) == (2 * ROUNDS, ROUNDS + 5, 4, 0)
    work = RoundsWork(chain.run, chain.stages[0], run.tasks(), run.models[""].digest)
    work.look()
    assert (work.view().total, work.view().done) == (2 * ROUNDS, ROUNDS + 5)


def tensors(place: InMemoryFolder | Disk, attempt: str = "20260101t000000z-aaaaaaaa") -> RunTensors:
    return RunTensors("run", attempt, place)  # type: ignore[arg-type]


def test_a_state_that_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, name = tensors(Disk(tmp_path)), "0" * 64
    whole = list(LoopRun(lambda: Sum(lambda name, number: 1.0), kept, name, 5, 0).rounds(lambda: True))
    good = LoopState.read(kept.newest(name)[1], 5)  # type: ignore[index]
    assert list(enumerate(good.rounds)) == whole
    for number, data in enumerate(
        (
            b"",
            b"no line",
            b"{}\n",
            b'{"format":"hybrid/loop","rounds":[["{}",1]],"version":1}\n1',
            good.pack()[:-1] + b"x",
        ),
    ):
        kept = tensors(Disk(tmp_path / str(number)))
        kept.keep(name, 5, data)
        caplog.clear()
        again = list(LoopRun(lambda: Sum(lambda name, number: 1.0), kept, name, 5, 0).rounds(lambda: True))
        assert [one.text for _, one in again] == [one.text for _, one in whole]
        assert "passed over" in caplog.text
    with pytest.raises(BadData, match="number of rounds"):
        LoopState.read(good.pack(), 4)


def test_states_that_are_none_do_not_hide_the_good_one_before_them(tmp_path: Path) -> None:
    computed, name = list[int](), "0" * 64

    def step(_: str, number: int) -> float:
        computed.append(number)
        return 1.0

    kept = tensors(Disk(tmp_path))
    run, asked = LoopRun(lambda: Sum(step), kept, name, 9, 0), iter([True, True, True, False])
    assert len(list(run.rounds(lambda: next(asked)))) == 3
    good = kept.newest(name)
    other = tensors(Disk(tmp_path), "20260101t000000z-bbbbbbbb")
    other.keep(name, 4, good[1] + b"x")  # type: ignore[index]
    other = tensors(Disk(tmp_path), "20260101t000000z-cccccccc")
    other.keep(name, 999_999_999, b"no state")
    assert len(list(LoopRun(lambda: Sum(step), kept, name, 9, 0).rounds(lambda: True))) == 9
    assert computed == list(range(9))
    assert len(list(LoopRun(lambda: Sum(step), kept, name, 9, 0).rounds(lambda: True))) == len(computed) == 9


def test_it_stops_after_the_round_in_hand_with_a_state(tmp_path: Path) -> None:
    kept, name, asked = tensors(Disk(tmp_path)), "0" * 64, iter([True, True, False])
    run = LoopRun(lambda: Sum(lambda name, number: 1.0), kept, name, 5, 1000)
    assert len(list(run.rounds(lambda: next(asked)))) == 2
    assert len(LoopState.read(kept.newest(name)[1], 5).rounds) == 2  # type: ignore[index]


@pytest.mark.parametrize(("seconds", "kept_rounds"), [(1.0, 4), (100.0, 0)])
def test_a_signal_waits_for_the_end_of_a_short_round(tmp_path: Path, seconds: float, kept_rounds: int) -> None:
    kept, name, now, told = tensors(Disk(tmp_path)), "0" * 64, 0.0, list[int]()

    def step(_: str, number: int) -> float:
        nonlocal now
        if number == 3:
            signal.raise_signal(signal.SIGTERM)
        now += seconds
        return 1.0

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run = LoopRun(lambda: Sum(step), kept, name, 9, 1000, now=lambda: now)
        with pytest.raises(KeyboardInterrupt):
            told += (number for number, _ in run.rounds(lambda: True))
    finally:
        signal.signal(signal.SIGTERM, before)
    found = kept.newest(name)
    assert len(LoopState.read(found[1], 9).rounds if found else ()) == len(told) == kept_rounds


def test_a_signal_cuts_no_state_that_is_being_kept(tmp_path: Path) -> None:
    class Interrupted(RunTensors):
        def keep(self, name: str, number: int, data: bytes) -> None:
            signal.raise_signal(signal.SIGTERM)
            super().keep(name, number, data)

    store, name = Interrupted("run", "20260101t000000z-aaaaaaaa", Disk(tmp_path)), "0" * 64
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(LoopRun(lambda: Sum(lambda name, number: 1.0), store, name, 9, 0).rounds(lambda: True))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(LoopState.read(store.newest(name)[1], 9).rounds) == 1  # type: ignore[index]


def test_large_states_are_kept_less_often(tmp_path: Path) -> None:
    @dataclass
    class Large(Sum):
        def state(self) -> bytes:
            return super().state() + b" " * 10_000_000

    now, kept = 0.0, list[int]()

    class Counting(RunTensors):
        def keep(self, name: str, number: int, data: bytes) -> None:
            kept.append(number)
            super().keep(name, number, data)

    def clock() -> float:
        nonlocal now
        now += 1.0  # a round asks three times
        return now

    store = Counting("run", "20260101t000000z-aaaaaaaa", Disk(tmp_path))
    run = LoopRun(lambda: Large(lambda name, number: 1.0), store, "0" * 64, 200, 30, now=clock)
    assert len(list(run.rounds(lambda: True))) == 200
    assert kept[0] in range(9, 12)
    assert min(after - before for before, after in pairwise(kept[:-1])) >= 16, "50 s apart"


@dataclass
class Meeting(Sum):
    """Adds up what the other one has shared in the round before."""

    def connect(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def round(self, number: int) -> RoundMetrics:
        other = self.exchange.newest("b" if self.name == "a" else "a")
        if number and (other is None or other[0] < number - 1):
            raise NotYet(f"the other one's round {number - 1}")
        self.total += 1 + (json.loads(other[1]) if other and number else 0)
        self.step(self.name, number)
        self.exchange.share(self.name, number, self.state())
        return RoundMetrics(number, {"total": self.total})


def test_series_that_wait_for_each_other_take_turns(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Meeting] = []

    def loop(self: Sums, series: Series, lab: Lab, tasks: Tasks) -> Meeting:
        made.append(Meeting(Sums.step, series.name))
        return made[-1]

    monkeypatch.setattr(Sums, "loop", loop)
    died = set[tuple[str, int]]()

    def step(name: str, number: int) -> float:
        if number == 4 and (name, number) not in died:
            died.add((name, number))
            raise KeyboardInterrupt
        return 0.0

    place.step = step
    for most_open in (0, 16):
        monkeypatch.setattr(rounds_work, "MOST_OPEN", most_open)
        with pytest.raises(NotFinished):
            place.run(checkpoint=1000)
    assert place.run(checkpoint=1000).failed == 0
    assert all(loop.closed for loop in made)
    assert sorted(place.computed) == [(name, number) for name in "ab" for number in range(ROUNDS)]
    assert [place.computed.index(("a", n)) < place.computed.index(("b", n + 1)) for n in range(ROUNDS - 1)]


def test_a_version_is_read_once_it_is_newer(tmp_path: Path) -> None:
    one = TensorExchange(tensors(Disk(tmp_path)), "rounds/1", "0" * 64)
    assert one.newest("x") is None
    one.share("x", 0, b"first")
    assert one.newest("x") == (0, b"first")
    one.share("x", 3, b"second")
    assert one.newest("x", after=2) == (3, b"second")
    assert one.newest("x", after=3) is None
    assert TensorExchange(tensors(Disk(tmp_path)), "rounds/2", "0" * 64).newest("x") is None


def test_a_loop_without_a_model_needs_no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "hybrid.backends.devices", raising=False)
    backend = open_backend("none", "none", {})
    with pytest.raises(CannotRun):
        _ = backend.device  # type: ignore[attr-defined]
    assert LoopEngine(backend, RunTensors("run", "attempt-1", Disk(tmp_path))).lab is backend

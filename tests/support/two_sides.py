"""Workers of two sides on one disk in simulated time: what each does when, with the workers' real code.

Each machine has a clock of its own; the one that is behind goes on. A backend takes the seconds of its work from its
machine's clock. What one writes, the others see `carried` seconds later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.folder.medium import Disk, Entry
from hybrid.folder.runs import Run
from hybrid.protocols import Backend, Model, Pipeline, Training
from hybrid.records import Completion, Request
from hybrid.worker.worker import Worker, WorkerOptions
from tests.support.manual_clock import ManualClock

Answer = Callable[[Request], tuple[float, str]]
"""The seconds that a request takes, and its answer."""
Written = dict[str, tuple[object, float]]
"""Path -> who wrote it, and when."""
COURIER = 5.0
"""Seconds between two rounds of a courier."""


class CarriedFolder:
    """A folder as one machine sees it: files of others are there some seconds after they were written."""

    def __init__(self, disk: Disk, clock: ManualClock, written: Written, carried: float) -> None:
        self._disk, self._clock, self._written, self._carried = disk, clock, written, carried

    def __str__(self) -> str:
        return str(self._disk)

    def entries(self, place: str) -> list[Entry]:
        return [one for one in self._disk.entries(place) if self._is_here(f"{place}/{one.name}".lstrip("/"))]

    def read(self, path: str, limit: int) -> bytes:
        return self._disk.read(path, limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        self._written.setdefault(path, (self, self._clock.time))
        self._disk.write(path, data, heal=heal)

    def _is_here(self, path: str) -> bool:
        writer, when = self._written.get(path, (self, 0.0))
        return writer is self or self._clock.time >= when + self._carried


class TimedBackend:
    """A model that takes its time: one request after another, each with the seconds that `answer` says."""

    def __init__(self, model: Model, clock: ManualClock, answer: Answer, done: Callable[[float], None]) -> None:
        self.model, self._clock, self._answer, self._done = model, clock, answer, done

    def prepare(self, training: Training) -> None:
        """What a stage trains takes its time with the first question of each training."""

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        for request in requests:
            if request is not None:
                seconds, text = self._answer(request)
                self._clock.time += seconds
                self._done(seconds)
                yield Completion(request.key, text=text, finish="stop")

    def close(self) -> None:
        pass


@dataclass
class TimedMachine:
    """A worker of one side, and its busy seconds: (when it was done, for how long)."""

    side: str
    content: Pipeline
    answer: Answer
    clock: ManualClock = field(default_factory=ManualClock)
    busy: list[tuple[float, float]] = field(default_factory=list)
    worker: Worker | None = None
    steps: Generator[float, None, None] | None = None
    courier_at: float = 0.0

    def start(self, folder: Any, store: Path, **options: float) -> None:
        store.mkdir(parents=True, exist_ok=True)
        how = WorkerOptions((self.side, "any"), linger=0.0, **{"max_idle": 1e9, **options})
        self.worker = Worker(folder, Disk(store), self.clock, self, how, attempt=f"0000-{self.side}")
        self.steps = self.worker.work()

    def step(self) -> bool:
        """Go on until the worker gives way; whether there is more to come."""
        assert self.worker is not None
        assert self.steps is not None
        wait = next(self.steps, None)
        if wait is None:
            return False
        self.clock.time += min(wait, COURIER) if wait else 0.0
        if self.clock.time >= self.courier_at:
            self.worker.step()
            self.courier_at = self.clock.time + COURIER
        return True

    def pipeline(self, run: Run) -> Pipeline:
        return self.content

    def digest(self, run: Run, role: str) -> str:
        return ("a" if role else "b") * 64

    def options(self, run: Run, role: str) -> Mapping[str, str]:
        return {}

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        model = Model(run.models[role].name, self.digest(run, role), 4096, {"engine": "timed"})
        return TimedBackend(model, self.clock, self.answer, self._was_busy)

    def _was_busy(self, seconds: float) -> None:
        self.busy.append((self.clock.time, seconds))

    def gauges(self) -> Mapping[str, Any]:
        return {}


def work_together(
    folder: Path,
    machines: Collection[TimedMachine],
    until: Callable[[], bool],
    carried: float = 0.0,
    **options: float,
) -> None:
    """Let the machines work until something is so; `options` are those of the workers.

    Raises AssertionError when none of them has anything to do.
    """
    written: Written = {}
    for machine in machines:
        view = CarriedFolder(Disk(folder), machine.clock, written, carried)
        machine.start(view, folder.parent / f"store-{machine.side}", **options)
    at_work = list(machines)
    while not until():
        assert at_work, "nobody has anything to do"
        behind = min(at_work, key=lambda one: one.clock.time)
        if not behind.step():
            at_work.remove(behind)

"""Work off a stage of rounds: one series after another is advanced, and the rounds that are safe become records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from hybrid.canonical import Json
from hybrid.canonical import digest as digest_of
from hybrid.errors import CannotRun
from hybrid.execution.loop_engine import LoopEngine
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.round_records import RoundRecords
from hybrid.execution.stage_work import StageWork, without_secrets
from hybrid.execution.trajectories import continued
from hybrid.folder.leases import choose
from hybrid.folder.runs import Run
from hybrid.loops import RoundFailed
from hybrid.protocols import Backend, Stage
from hybrid.records import Completion, Item, Record
from hybrid.work import Rounds


class RoundsWork(StageWork):
    """A stage of rounds as one attempt works on it. A block is a series."""

    completed: RoundRecords

    def __init__(self, run: Run, stage: Stage, tasks: Mapping[str, Any], digest: str, start: int = 0) -> None:
        super().__init__(run, stage, tasks, digest, start)
        self._work = rounds_of(stage)
        self.series = tuple(self._work.series(tasks))
        self.completed = RoundRecords(run, stage, digest, self.series)
        self.size, self.blocks = 1, len(self.series)
        self._start = start % max(1, self.blocks)
        self.latest: Mapping[str, Json] = {}
        """The series that is advanced, and the metrics of its last round, safe or not."""
        self._told: dict[bytes, tuple[Item, str]] = {}  # rounds that have no record yet: the item and its history

    def answers(self, engine: Backend, taken: Callable[[], Any]) -> Iterator[Completion]:
        """Advance one series after the other. Raises HybridError, such as the fault of a plugin whose loop fails."""
        if not isinstance(engine, LoopEngine):
            raise CannotRun(f"the stage '{self.stage.name}' was given no engine for loops", hint="please report this")
        while (others := taken()) is not None:
            block = choose([one for one in self.open_blocks() if one not in others], others, self._last, self._start)
            if block is None:
                return
            if self.claims.take(block):
                yield from self._held(block, engine, lambda: taken() is not None)

    def _held(self, block: int, engine: LoopEngine, go_on: Callable[[], bool]) -> Iterator[Completion]:
        self._last, self.held[block] = block, set(self._keys(block))
        try:
            yield from self._advanced(block, engine, go_on)
        finally:
            self.held.pop(block, None)
            if all(map(self.done, self._keys(block))):
                self._answered.add(block)
            else:
                self.claims.release([block])

    def _advanced(self, block: int, engine: LoopEngine, go_on: Callable[[], bool]) -> Iterator[Completion]:
        """The rounds of a series that have no record, or one of another trajectory than the newest state's."""
        series, history = self.series[block], self.completed.beginnings[block]
        name = digest_of([self.stage.identity, self.digest, series.name, dict(series.settings)])
        make = partial(self._work.loop, series, engine.lab, self._tasks)
        run = LoopRun(
            make, engine.tensors, name, series.rounds, engine.checkpoint, partial(self._computed, series.name)
        )
        left = iter(zip(self._keys(block), series.items(), strict=True))
        try:
            for text, seconds in run.rounds(go_on):
                key, item = next(left)
                history = continued(history, text)
                if self.completed.histories.get(key) != history:
                    self._told[key] = item, history
                    yield Completion(key.hex(), text=text, finish="stop", seconds=seconds)
        except RoundFailed as error:
            for key, item in left:
                self._told[key] = item, ""
                yield Completion(key.hex(), error=error.failure)

    def _computed(self, series: str, text: str) -> None:
        self.latest = {"series": series, "text": text}

    def answered(self, completion: Completion) -> Record:
        """The record of a round."""
        key = bytes.fromhex(completion.key)
        item, history = self._told.pop(key)
        done = without_secrets(completion)
        record = Record(done.key, item.task, item.question, item.view, item.sample, done, history)
        if done.error:
            self._failed_here[key] = done.error.kind
            self.excused.add(key)
        else:
            self.completed.add(record)
        return record

    def _keys(self, block: int) -> list[bytes]:
        return self.completed.keys[block]


def rounds_of(stage: Stage) -> Rounds:
    """The work of a stage of rounds."""
    if not isinstance(stage.work, Rounds):
        raise CannotRun(f"the stage '{stage.name}' has no rounds", hint="please report this")
    return stage.work

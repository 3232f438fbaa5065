"""Work off a stage of rounds: one series after another is advanced, and the rounds that are safe become records."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from hybrid.canonical import Json
from hybrid.canonical import digest as digest_of
from hybrid.errors import CannotRun
from hybrid.execution.exchange import TensorExchange
from hybrid.execution.loop_engine import LoopEngine
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.publications import StagePublications
from hybrid.execution.round_records import RoundRecords
from hybrid.execution.stage_work import StageWork, without_secrets
from hybrid.execution.trajectories import continued
from hybrid.folder.leases import choose
from hybrid.folder.runs import Run
from hybrid.folder.segment_shelf import SegmentShelf
from hybrid.loops import Loop, NotYet, PublishingLoop, RoundFailed, Series, SharingLoop
from hybrid.protocols import Backend, Stage
from hybrid.records import Completion, Item, Record
from hybrid.work import Rounds

LOG = logging.getLogger("hybrid")
PAUSE = 2.0
"""Seconds after which a series that waits for others is tried again."""
TICK = 0.5
"""Seconds between two looks while all series wait."""
MOST_OPEN = 16
"""Loops that wait and stay open; further ones begin again from their states."""


class RoundsWork(StageWork):
    """A stage of rounds as one attempt works on it. A block is a series."""

    completed: RoundRecords

    def __init__(self, run: Run, stage: Stage, tasks: Mapping[str, Any], digest: str, start: int = 0) -> None:
        super().__init__(run, stage, tasks, digest, start)
        self._work = rounds_of(stage)
        self.series = tuple(self._work.series(tasks))
        self.completed = RoundRecords(run, stage, digest, self.series, self.keys)
        self.size, self.blocks = 1, len(self.series)
        self._start = start % max(1, self.blocks)
        self.latest: Mapping[str, Json] = {}
        """The series that is advanced, and the metrics of its last round, safe or not."""
        self._waiting: dict[int, float] = {}  # series that waits for others -> when to try it again
        self._runs: dict[int, LoopRun] = {}  # those that wait, the one that waits longest first
        self._shelf: SegmentShelf | None = None
        self._told: dict[bytes, tuple[Item, str]] = {}  # rounds that have no record yet: the item and its history

    def answers(self, engine: Backend, taken: Callable[[], Any]) -> Iterator[Completion]:
        """Advance one series after the other. Raises HybridError, such as the fault of a plugin whose loop fails.

        A series that waits for what others share is left to whoever takes it next; while all do, none is tried.
        """
        if not isinstance(engine, LoopEngine):
            raise CannotRun(f"the stage '{self.stage.name}' was given no engine for loops", hint="please report this")
        try:
            yield from self._turns(engine, taken)
        finally:
            for run in self._runs.values():
                run.close()
            self._runs.clear()

    def _turns(self, engine: LoopEngine, taken: Callable[[], Any]) -> Iterator[Completion]:
        while (others := taken()) is not None:
            free = [one for one in self.open_blocks() if one not in others]
            ready = [one for one in free if self._waiting.get(one, 0.0) <= time.monotonic()]
            block = choose(ready, others, self._last, self._start)
            if block is not None:
                if self.claims.take(block):
                    yield from self._held(block, engine, lambda: taken() is not None)
            elif free:
                time.sleep(TICK)
            else:
                return

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
        run = self._runs.pop(block, None) or self._run_of(series, engine)
        left = iter(zip(self._keys(block), series.items(), strict=True))
        try:
            for text, seconds, costs in run.rounds(go_on):
                key, item = next(left)
                history = continued(history, text)
                if self.completed.histories.get(key) != history:
                    self._told[key] = item, history
                    trained: dict[str, Json] = (
                        {"costs": {name: dict(one) for name, one in costs.items()}} if costs else {}
                    )
                    yield Completion(key.hex(), text=text, finish="stop", seconds=seconds, trained=trained)
        except NotYet as error:
            LOG.log(logging.DEBUG if block in self._waiting else logging.INFO, "%s waits: %s", series.name, error)
            self._waiting[block] = time.monotonic() + PAUSE
            self._runs[block] = run
            if len(self._runs) > MOST_OPEN:
                self._runs.pop(next(iter(self._runs))).close()
        except RoundFailed as error:
            for key, item in left:
                self._told[key] = item, ""
                yield Completion(key.hex(), error=error.failure)

    def _run_of(self, series: Series, engine: LoopEngine) -> LoopRun:
        name = digest_of([self.stage.identity, self.digest, series.name, dict(series.settings)])
        make, tell = partial(self._connected, series, engine), partial(self._computed, series.name)
        return LoopRun(make, engine.tensors, name, series.rounds, engine.checkpoint, tell)

    def _connected(self, series: Series, engine: LoopEngine) -> Loop:
        loop = self._work.loop(series, engine.lab, self._tasks)
        if isinstance(loop, SharingLoop):
            loop.connect(TensorExchange(engine.tensors, self.stage.identity, self.digest))
        if isinstance(loop, PublishingLoop):
            loop.publish_to(StagePublications(self._shelf_of(engine)))
        return loop

    def _shelf_of(self, engine: LoopEngine) -> SegmentShelf:
        """What all loops of the stage publish, and what has arrived of others."""
        if self._shelf is None:
            if engine.shelves is None:
                raise CannotRun(f"the stage '{self.stage.name}' has no place to publish", hint="please report this")
            self._shelf = engine.shelves(self.stage.identity, self.digest, self.blocks)
        return self._shelf

    def _computed(self, series: str, text: str) -> None:
        self._waiting.update(dict.fromkeys(self._waiting, 0.0))  # what others wait for may be there now
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

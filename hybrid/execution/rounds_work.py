"""Work off a stage of rounds: one series after another is advanced, and the rounds that are safe become records."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.execution.exchange import TensorExchange
from hybrid.execution.loop_engine import LoopEngine
from hybrid.execution.loop_run import LoopRun
from hybrid.execution.loop_state import state_name
from hybrid.execution.publications import StagePublications
from hybrid.execution.round_records import RoundRecords
from hybrid.execution.stage_work import StageWork, without_secrets
from hybrid.execution.trajectories import continued
from hybrid.folder.leases import BeatMonitor, LeaseTimeouts, choose
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
WOKEN = -math.inf
"""When to try a series for which there may be news."""
MOST_OPEN = 16
"""Loops that wait and stay open; further ones begin again from their states."""
HEARING, HEARD_IN_BEATS = 45.0, 0.375
"""Seconds, and times between two heartbeats, the shorter of both: a worker that has come later than that is heard of.

The claims of a machine are carried to another one by a mount or by `hybrid sync` at both ends.
"""
PATIENCE = 20.0
"""Seconds without a new round after which one of MOST_OPEN loops that all wait is closed, and another one opened."""


@dataclass(slots=True)
class _Open:
    """A series whose loop waits for others: its run, and the history of the rounds that were told so far."""

    run: LoopRun
    history: str
    told: int = 0


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
        self._open: dict[int, _Open] = {}  # those that wait, the one that waits longest first
        self._mine: set[int] = set()  # those of them that stay claimed
        self._progress = -math.inf  # when a round was computed or a loop opened last
        self._workers, self._rank = 1, 0  # at work on this stage, as far as is known, and the place among them
        self._known: frozenset[str] = frozenset()  # the others of them
        self._began = self._settled = math.inf  # when it began here, and when it last heard of a change
        self._hearing = 0.0  # for how long claims may be on their way
        self._asked_for = False  # whether one of them has no series
        self._rivals: set[int] = set()  # series that another one has, too, which goes on with them
        self._now: Callable[[], float] = time.monotonic
        self._shelf: SegmentShelf | None = None
        self._given = self._made = 0  # rounds that were given a record, and that were computed, in this process
        self._told: dict[bytes, tuple[Item, str]] = {}  # rounds that have no record yet: the item and its history

    @property
    def restored(self) -> int:
        """Rounds that got a record now and were computed before: they were in a state that was kept."""
        return max(0, self._given - self._made)

    def others(self, monitor: BeatMonitor, timeouts: LeaseTimeouts) -> set[int]:
        """The series that others hold, as far as that is to be respected now."""
        where = self.stage.name, self.size, timeouts.idle
        siblings = self.claims.others(timeouts.idle)
        known = frozenset(monitor.at_work(*where) | siblings.attempts)
        if known != self._known:
            self._known, self._settled = known, self._now()
        self._workers, self._rank = 1 + len(known), monitor.rank(known)
        self._hearing = min(HEARING, HEARD_IN_BEATS * timeouts.beat)
        self._asked_for = bool(monitor.without_block(*where)) or len(siblings.attempts) > len(siblings.blocks)
        self._rivals = monitor.claimed_first(*where)
        return super().others(monitor, timeouts)

    def answers(self, engine: Backend, taken: Callable[[], Any]) -> Generator[Completion | None, None, None]:
        """Advance one series after the other; None when all wait, for the caller to wait `TICK` seconds.

        A series that waits for what others share is left to whoever takes it next. One that waits for what others
        publish stays claimed here, unless this worker has more of them than its share. Raises HybridError, such as the
        fault of a plugin whose loop fails.
        """
        if not isinstance(engine, LoopEngine):
            raise CannotRun(f"the stage '{self.stage.name}' was given no engine for loops", hint="please report this")
        self._now = engine.now
        if self._began == math.inf:
            self._began = self._settled = engine.now()
        try:
            yield from self._turns(engine, taken)
        finally:
            self._mine.clear()
            with ExitStack() as closing:  # each of them, whatever another one raises
                for one in self._open.values():
                    closing.callback(one.run.close)
                self._open.clear()
            if self._shelf:
                LOG.info("looked into the folder %d times for what others publish", self._shelf.listed)

    def _turns(self, engine: LoopEngine, taken: Callable[[], Any]) -> Iterator[Completion | None]:
        while (others := taken()) is not None:
            stuck = self._is_stuck(others)
            yield from self._given_back(engine, self._too_many(stuck=stuck))
            block, left = self._next(others, stuck=stuck)
            if block is not None:
                if block in self._mine or self.claims.take(block):
                    yield from self._held(block, engine, lambda: taken() is not None)
            elif left:
                if self._shelf and self._shelf.news():
                    self._try_all()
                yield None
            else:
                return
        yield from self._given_back(engine, list(self._mine))

    @property
    def hears(self) -> bool:
        """Whether claims of others may be on their way that this worker has not heard of since it began."""
        return self._now() - self._began < self._hearing

    @property
    def settling(self) -> bool:
        """Whether workers are dividing the series now. Called from any thread."""
        return self._shelf is not None and self._now() - self._settled < 2 * self._hearing

    def _share(self) -> int:
        """How many series that wait this worker may keep: as many as any other, and no more than fit.

        At first it is one: workers who begin together on different machines would all take all of them, until each has
        heard of the others.
        """
        if self.hears:
            return 1
        unfinished = len(self.open_blocks()) + len(self._mine)
        return max(1, min(MOST_OPEN, -(-unfinished // self._workers)))

    def _too_many(self, *, stuck: bool) -> list[int]:
        """The series that wait and are to be given back: what another worker has, too, and more than one's share."""
        waiting = [one for one in self._open if one in self._mine]
        found = [one for one in waiting if one in self._rivals]
        left = [one for one in waiting if one not in self._rivals]
        if self._asked_for:
            more = sorted(left, key=lambda one: not self._is_home(one))[self._share() :]
            self._settled = self._now() if more else self._settled  # they are for whoever asks
            return found + more
        return found + left[: stuck and len(left) >= MOST_OPEN]

    def _next(self, others: Collection[int], *, stuck: bool) -> tuple[int | None, bool]:
        """The series to go on with now, and whether there are any left for this worker."""
        now = self._now()
        mine = [one for one in self._open if one in self._mine and self._waiting[one] <= now]
        if woken := [one for one in mine if self._waiting[one] == WOKEN]:
            return woken[0], True
        free = [one for one in self.open_blocks() if one not in others]
        if len(self._mine) >= self._share() and not stuck:
            free = []
        ready = [one for one in free if self._waiting.get(one, WOKEN) <= now]
        block = choose(self._home(ready), others, self._last, self._start)
        return mine[0] if block is None and mine else block, bool(free or self._mine)

    def _home(self, ready: Sequence[int]) -> Sequence[int]:
        """Those of the series that this worker may take now.

        Workers whose series wait for each other have some of their own, and hear late what each has taken. So one takes
        others only where whoever should have taken them has had the time.
        """
        if self._last is None or self._shelf is None:
            return ready
        own = [one for one in ready if self._is_home(one)]
        return own if own or self._now() - self._settled < 2 * self._hearing else ready

    def _is_home(self, block: int) -> bool:
        return block % self._workers == self._rank

    def _is_stuck(self, others: Collection[int]) -> bool:
        """Whether all loops that are open wait in vain, and another one might be what they wait for."""
        return not self.hears and self._now() - self._progress > PATIENCE and not set(self.open_blocks()) <= set(others)

    def _given_back(self, engine: LoopEngine, blocks: Sequence[int]) -> Iterator[Completion]:
        """Give back series that wait and stay claimed: their states are kept first."""
        for block in blocks:
            self._mine.remove(block)
            self._waiting[block] = self._now() + PAUSE
            yield from self._held(block, engine, lambda: False)

    def _held(self, block: int, engine: LoopEngine, go_on: Callable[[], bool]) -> Iterator[Completion]:
        claimed = block in self._open and block in self.held
        self._last, self.held[block] = block, set(self._keys(block))
        self._mine.discard(block)
        try:
            yield from self._advanced(block, engine, go_on, claimed=claimed)
        finally:
            if block not in self._mine:
                self.held.pop(block, None)
                if all(map(self.done, self._keys(block))):
                    self._answered.add(block)
                else:
                    self.claims.release([block])

    def _advanced(
        self, block: int, engine: LoopEngine, go_on: Callable[[], bool], *, claimed: bool
    ) -> Iterator[Completion]:
        """The rounds of a series that have no record, or one of another trajectory than the newest state's."""
        series, keys, beginning = self.series[block], self._keys(block), self.completed.beginnings[block]
        here = self._open.pop(block, None) or _Open(self._run_of(series, engine), beginning)
        try:
            for number, (text, seconds, costs) in here.run.rounds(go_on, claimed=claimed):
                here.history = continued(here.history if number else beginning, text)
                here.told, key = number + 1, keys[number]
                if self.completed.histories.get(key) != here.history:
                    self._told[key] = series.item(number), here.history
                    self._given += 1
                    trained: dict[str, Json] = {"costs": {name: dict(one) for name, one in costs.items()}}
                    yield Completion(
                        key.hex(), text=text, finish="stop", seconds=seconds, trained=trained if costs else {}
                    )
        except NotYet as error:
            self._waits(block, here, error)
        except RoundFailed as error:
            for number in range(here.told, series.rounds):
                self._told[keys[number]] = series.item(number), ""
                yield Completion(keys[number].hex(), error=error.failure)

    def _waits(self, block: int, here: _Open, error: NotYet) -> None:
        level = logging.DEBUG if block in self._waiting else logging.INFO
        LOG.log(level, "%s waits: %s", self.series[block].name, error)
        self._waiting[block] = self._now() + PAUSE
        self._open[block] = here
        if here.run.stays:
            self._mine.add(block)
        elif len(self._open) > MOST_OPEN:
            self._open.pop(next(one for one in self._open if one not in self._mine)).run.close()

    def _run_of(self, series: Series, engine: LoopEngine) -> LoopRun:
        name = state_name(self.stage.identity, self.digest, series)
        self._progress = self._now()
        make, tell = partial(self._connected, series, engine), partial(self._computed, series.name)
        return LoopRun(make, engine.tensors, name, series.rounds, engine.checkpoint, tell, engine.now)

    def _connected(self, series: Series, engine: LoopEngine) -> Loop:
        loop = self._work.loop(series, engine.lab, self._tasks)
        if isinstance(loop, SharingLoop):
            loop.connect(TensorExchange(engine.tensors, self.stage.identity, self.digest, engine.now))
        if isinstance(loop, PublishingLoop):
            loop.publish_to(StagePublications(self._shelf_of(engine)))
        return loop

    def _shelf_of(self, engine: LoopEngine) -> SegmentShelf:
        """What all loops of the stage publish, and what has arrived of others."""
        if self._shelf is None:
            if engine.shelves is None:
                raise CannotRun(f"the stage '{self.stage.name}' has no place to publish", hint="please report this")
            self._shelf = engine.shelves.of(self.stage.identity, self.digest, self.blocks)
        return self._shelf

    def _computed(self, series: str, text: str) -> None:
        self._progress = self._now()
        self._made += 1
        self._try_all()  # what others wait for may be there now
        self.latest = {"series": series, "text": text}

    def _try_all(self) -> None:
        self._waiting.update(dict.fromkeys(self._waiting, WOKEN))

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

"""Executes a stage: every item without a record is given to the backend, and each answer is written to a shard."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import CannotRun, HybridError, NotFinished, Temporary
from hybrid.execution.completed import CompletedItems
from hybrid.execution.stage_view import StageView
from hybrid.folder.leases import block_size, choose
from hybrid.folder.medium import Medium
from hybrid.folder.names import new_attempt, stage_name
from hybrid.folder.runs import Run
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.machine.clock import Clock
from hybrid.machine.redaction import redacted
from hybrid.machine.terminal import count_of
from hybrid.plugins.faults import raise_attributed
from hybrid.progress import Observer, ProgressCounts
from hybrid.protocols import Backend, Model, Stage
from hybrid.records import Completion, Failure, Item, Record, Request


class StageWork:
    """A stage of a run as one attempt works on it: which items are left, and which blocks of them it holds.

    `digest` is that of the model that answers. A block is a range of consecutive items; blocks let several workers
    share a stage. `start` is the block that this attempt begins with.
    """

    def __init__(self, run: Run, stage: Stage, tasks: Mapping[str, Any], digest: str, start: int = 0) -> None:
        self.run, self.stage, self.digest = run, stage, digest
        self._tasks = tasks
        self.keys = [item.digest(stage.identity, digest) for item in stage.items(tasks)]
        self.size = block_size(len(self.keys))
        self.blocks = -(-len(self.keys) // self.size)
        self.completed = CompletedItems(run, stage.name, digest)
        self.excused: set[bytes] = set()  # failed items that count as done
        self._failed_here: dict[bytes, str] = {}  # items that failed here, and the kinds of their failures
        self._set_aside: frozenset[str] = frozenset()
        self._finished: set[int] = set()  # blocks that had no item left
        self.held: dict[int, set[bytes]] = {}  # block -> its items that were given to the backend and wait
        self._asked: dict[bytes, tuple[int, Item]] = {}
        self._last: int | None = None
        self._start = start % max(1, self.blocks)
        self._position, self._items = 0, iter(stage.items(tasks))

    def look(self, set_aside: Collection[str] = ()) -> None:
        """Read the shards that have arrived. Failures in the shards `set_aside` are to be done again."""
        self.completed.look()
        if (aside := frozenset(set_aside)) != self._set_aside:
            self._set_aside, self._failed_here, self._finished = aside, {}, set()
        self.excused = self.completed.failed(aside).keys() | self._failed_here.keys()

    def done(self, key: bytes) -> bool:
        return key in self.completed.good or key in self.excused

    @property
    def left(self) -> int:
        """How many items have no record that counts."""
        return len(set(self.keys) - self.completed.good - self.excused)

    def view(self) -> StageView:
        """The status of the stage, from the last `look` and what was done here since."""
        keys, kinds = set(self.keys), {**self.completed.failed(), **self._failed_here}
        failed = (keys & self.excused) - self.completed.good
        return StageView(
            self.stage.name,
            self.digest,
            total=len(keys),
            done=len(keys & (self.completed.good | self.excused)),
            failed=len(failed),
            again=len((keys & kinds.keys()) - self.excused),
            reasons=Counter(kinds[key] for key in failed),
            refused=tuple(self.completed.refused),
        )

    def open_blocks(self) -> list[int]:
        """The blocks that are not held here and have items without a record that counts, in order."""
        maybe = [block for block in range(self.blocks) if block not in self.held and block not in self._finished]
        found = [block for block in maybe if any(not self.done(key) for key in self._keys(block))]
        self._finished.update(set(maybe).difference(found))
        return found

    def requests(self, taken: Callable[[], Collection[int] | None]) -> Iterator[Request]:
        """The requests for the backend, block by block, until no block is free.

        `taken` returns the blocks that other attempts hold now, or None when no further block may be begun.
        """
        while (others := taken()) is not None:
            block = choose([one for one in self.open_blocks() if one not in others], others, self._last, self._start)
            if block is None:
                return
            yield from self._given_out(block)

    def _given_out(self, block: int) -> Iterator[Request]:
        self._last, self.held[block] = block, set()
        for key, item in self._block(block):
            if not self.done(key) and key not in self._asked:
                self.held[block].add(key)
                self._asked[key] = block, item
                yield replace(item.request, key=key.hex())
        self._release(block)

    def answered(self, completion: Completion) -> Record:
        """The record of an answer. Its item is done and no longer held."""
        key = bytes.fromhex(completion.key)
        block, item = self._asked.pop(key)
        self.held.get(block, set()).discard(key)
        self._release(block)
        if completion.error:
            self._failed_here[key] = completion.error.kind
            self.excused.add(key)
            why = Failure(completion.error.kind, redacted(completion.error.message))
            completion = replace(completion, error=why)
        else:
            self.completed.good.add(key)
        return Record(completion.key, item.task, item.question, item.view, item.sample, completion)

    @property
    def backend(self) -> str:
        """The name of the stage's backend, for messages."""
        return f"the backend '{self.run.models[self.stage.role].backend}'"

    def answers(self, engine: Backend, taken: Callable[[], Collection[int] | None]) -> Iterator[Completion]:
        """The engine's answers to `requests`, as they come. Raises HybridError."""
        try:
            yield from engine.generate(self.requests(taken))
        except Exception as error:  # noqa: BLE001 - engines have errors of many libraries
            first = next((item.question for _, item in self._asked.values()), "")
            raise_attributed(
                self.backend,
                error,
                f"{count_of(len(self._asked), 'item')} waited, the first for the question '{first:.200}'",
            )

    @property
    def unanswered(self) -> int:
        """The number of items that were given to the backend and have no answer yet."""
        return len(self._asked)

    def give_up(self) -> None:
        """Release all items without an answer: they are left to do."""
        self._asked.clear()
        self.held.clear()

    def _release(self, block: int) -> None:
        """Stop holding a block whose last item was answered, unless items of it are still being given out."""
        if not self.held.get(block) and (block != self._last or self._position >= self._end(block)):
            self.held.pop(block, None)

    def _end(self, block: int) -> int:
        return min((block + 1) * self.size, len(self.keys))

    def _keys(self, block: int) -> list[bytes]:
        return self.keys[block * self.size : self._end(block)]

    def _block(self, block: int) -> Iterator[tuple[bytes, Item]]:
        """The items of a block. A stage makes its items in order, so going back starts again from the first."""
        first = block * self.size
        if self._position > first:
            self._position, self._items = 0, iter(self.stage.items(self._tasks))
        for _ in islice(self._items, first - self._position):
            pass
        self._position = first
        for item in islice(self._items, self._end(block) - first):
            self._position += 1
            yield self.keys[self._position - 1], item


class StageSession:
    """A stage while a worker works on it: its claim, its heartbeat, its shard timer. `gauges` measures the machine."""

    def __init__(
        self, work: StageWork, writer: ShardWriter, gauges: Callable[[], Mapping[str, Json]], clock: Clock
    ) -> None:
        self.work, self.writer, self._gauges = work, writer, gauges
        self.total = len(set(work.keys))
        self.counts = ProgressCounts(clock.now)
        self.counts.begin(work.stage.name, self.total, self.total - work.left)

    @property
    def run(self) -> str:
        return self.work.run.id

    def tick(self) -> None:
        self.writer.tick()

    def look(self, set_aside: Collection[str]) -> None:
        self.work.look(set_aside)

    def claim(self) -> Mapping[str, Json]:
        return {"stage": self.work.stage.name, "size": self.work.size, "blocks": sorted(list(self.work.held))}  # noqa: C414

    def report(self) -> Mapping[str, Json]:
        return {
            "progress": self.counts.to_json(),
            "open_records": self.writer.open_records,
            "model": self.work.digest,
            **self._gauges(),
        }


def shard_header(work: StageWork, attempt: str, model: Model) -> dict[str, object]:
    """The header of the shards that an attempt writes. Raises CannotRun when another model answers than the run's."""
    if model.digest != work.digest:
        raise CannotRun(
            f"the model {model.name} that was loaded is not the one of {work.run.id}",
            hint="did its files change meanwhile? run the command again",
        )
    about = {"name": model.name, "digest": model.digest, "about": dict(model.about)}
    if work.stage.role:
        about["role"] = work.stage.role
    run, stage = work.run.id, work.stage.name
    return {"format": FORMAT, "version": 1, "run": run, "stage": stage, "attempt": attempt, "model": about}


def run_stage(
    run: Run,
    stage: Stage,
    backend: Callable[[], Backend],
    observer: Observer,
    *,
    shard_seconds: float = 60.0,
    retry_failed: bool = False,
) -> tuple[StageView, int]:
    """Execute a stage on this machine alone. Returns its status afterwards, and how many items were done just now.

    No finished item is done again; a kill loses at most the open shard. `backend` loads the model and is called only
    when an item is left to do. Raises NotFinished on Ctrl-C, after the open shard is closed; Temporary when the disk is
    full or the engine left items unanswered.
    """
    work = StageWork(run, stage, run.tasks(), run.models[stage.role].digest)
    work.look()
    if retry_failed:
        work.excused = set()
    total = len(set(work.keys))
    before = total - work.left
    observer.started(stage.name, total, before)
    try:
        if work.left:
            _answer(work, backend(), run.folder, observer, shard_seconds)
    except KeyboardInterrupt as error:
        raise NotFinished(
            f"stopped at {total - work.left:,} of {count_of(total, 'item')} of {run.id}; what is done is kept",
            hint="run the same command again to go on",
        ) from error
    finally:
        observer.ended()
    if work.left:
        left = count_of(work.left, "item")
        raise Temporary(f"the engine left {left} of {run.id} unanswered", hint="run it again")
    return work.view(), total - before


def _answer(work: StageWork, engine: Backend, medium: Medium, observer: Observer, shard_seconds: float) -> None:
    """Give the backend the items that are left, and write its answers, in any order, into shards of a new attempt."""
    attempt = new_attempt()
    header, place = shard_header(work, attempt, engine.model), f"{work.run.place}/{stage_name(work.stage.name)}"
    observer.working()
    writer = ShardWriter(medium, f"{place}/{attempt}", header, seconds=shard_seconds, on_close=observer.closed_shard)
    with ticking(writer, min(1.0, shard_seconds)) as failures:
        for completion in work.answers(engine, lambda: ()):
            writer.add(work.answered(completion))
            observer.finished_item(completion)
            if failures:
                raise failures[0]


@contextmanager
def ticking(writer: ShardWriter, seconds: float) -> Iterator[list[HybridError]]:
    """Close the writer's shards by age, in a thread, and the open one at the end. The list gets the thread's errors."""
    stop, failures = threading.Event(), list[HybridError]()

    def tick() -> None:
        while not stop.wait(seconds):
            try:
                writer.tick()
            except HybridError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=tick, name="shard-timer", daemon=True)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
        writer.close()

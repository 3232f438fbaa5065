"""Executes a stage: every item without a record is given to the backend, and each answer is written to a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

from hybrid.execution.claims import Claims, NoClaims
from hybrid.execution.completed import CompletedItems
from hybrid.execution.stage_view import StageView
from hybrid.folder.leases import BeatMonitor, LeaseTimeouts, block_size, choose
from hybrid.folder.runs import Run
from hybrid.machine.redaction import redacted
from hybrid.machine.terminal import count_of
from hybrid.plugins.faults import raise_attributed
from hybrid.protocols import Backend, Stage
from hybrid.records import Completion, Failure, Item, Record, Request


class StageWork:
    """A stage of a run as one attempt works on it: which items are left, and which blocks of them it holds.

    `digest` is that of the model that answers. A block is a range of consecutive items; blocks let several workers
    share a stage. `start` is the block that this attempt begins with.
    """

    grows: ClassVar[bool] = False

    def __init__(self, run: Run, stage: Stage, tasks: Mapping[str, Any], digest: str, start: int = 0) -> None:
        self.run, self.stage, self.digest, self.digests = run, stage, digest, {stage.role: digest}
        self._tasks = tasks
        self.keys = [item.digest(stage.identity, digest) for item in stage.items(tasks)]
        self.size = block_size(len(self.keys))
        self.blocks = -(-len(self.keys) // self.size)
        self.completed = CompletedItems(run, stage.name, digest)
        self.excused: set[bytes] = set()  # failed items that count as done
        self._failed_here: dict[bytes, str] = {}  # items that failed here, and the kinds of their failures
        self._set_aside: frozenset[str] = frozenset()
        self._finished: set[int] = set()  # blocks that had no item left
        self._answered: set[int] = set()  # blocks that were claimed and answered here
        self.held: dict[int, set[bytes]] = {}  # block -> its items that were given to the backend and wait
        self.claims: Claims = NoClaims()  # those of this machine's other workers
        self._asked: dict[bytes, tuple[int, Item]] = {}
        self._last: int | None = None
        self._start = start % max(1, self.blocks)
        self._position, self._items = 0, iter(stage.items(tasks))

    def look(self, set_aside: Collection[str] = ()) -> None:
        """Read the shards that have arrived. Failures in the shards `set_aside` are to be done again."""
        with self.claims.looking():
            self.completed.look()
        if (aside := frozenset(set_aside)) != self._set_aside:
            self._set_aside, self._failed_here, self._finished = aside, {}, set()
            again = self._answered - set(list(self.held))  # noqa: C414 - another thread may change it
            self._answered -= again
            self.claims.release(again)
        self.excused = self.completed.failed(aside).keys() | self._failed_here.keys()

    def retry_failed(self) -> None:
        """Do again what has only failed."""
        self.excused = set()

    def done(self, key: bytes) -> bool:
        return key in self.completed.good or key in self.excused

    @property
    def total(self) -> int:
        """How many items there are."""
        return len(set(self.keys))

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

    def others(self, monitor: BeatMonitor, timeouts: LeaseTimeouts) -> set[int]:
        """The blocks that others hold, as far as that is to be respected now."""
        others = self._claimed_by_others(monitor, timeouts.reclaim)
        if not self.held and not self.may_begin(others):  # nothing else to do: a doubtful claim is no reason
            others = self._claimed_by_others(monitor, timeouts.idle)
        return others

    def _claimed_by_others(self, monitor: BeatMonitor, within: float) -> set[int]:
        return monitor.claimed(self.stage.name, self.size, within) | self.claims.others(within).blocks

    @staticmethod
    def nobody() -> Collection[int]:
        """What others hold where nobody else is at work."""
        return ()

    def may_begin(self, others: Collection[int]) -> bool:
        """Whether there is something to do that the others do not hold."""
        return not set(self.open_blocks()) <= set(others)

    def claimed(self) -> list[int]:
        """The blocks that are held, sorted. Called from any thread."""
        return sorted(list(self.held))  # noqa: C414

    def requests(self, taken: Callable[[], Collection[int] | None]) -> Iterator[Request]:
        """The requests for the backend, block by block, until no block is free.

        `taken` returns the blocks that other attempts hold now, or None when no further block may be begun.
        """
        while (others := taken()) is not None:
            block = choose([one for one in self.open_blocks() if one not in others], others, self._last, self._start)
            if block is None:
                return
            if self.claims.take(block):
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
        else:
            self.completed.good.add(key)
        done = without_secrets(completion)
        return Record(done.key, item.task, item.question, item.view, item.sample, done)

    @property
    def backend(self) -> str:
        """The name of the stage's backend, for messages."""
        return f"the backend '{self.run.models[self.stage.role].backend}'"

    def answers(self, engine: Backend, taken: Callable[[], Any]) -> Generator[Completion | None, None, None]:
        """The engine's answers to `requests`, as they come; None where there is nothing to do for the moment.

        Raises HybridError.
        """
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
        self.claims.release(list(self.held))
        self._asked.clear()
        self.held.clear()

    def _release(self, block: int) -> None:
        """Stop holding a block whose last item was answered, unless items of it are still being given out."""
        if not self.held.get(block) and (block != self._last or self._position >= self._end(block)):
            self.held.pop(block, None)
            self._answered.add(block)

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


def without_secrets(completion: Completion) -> Completion:
    """The completion; the message of a failure goes into a folder that others read."""
    if completion.error is None:
        return completion
    return replace(completion, error=Failure(completion.error.kind, redacted(completion.error.message)))

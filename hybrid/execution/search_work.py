"""Work off a search: the items that its walks wait for are given to the engines, and the walks go on with the answers.

Nothing of a walk is saved. Whoever sees the records replays it, and so knows what is left to do.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Any, ClassVar

from hybrid.errors import PluginFault
from hybrid.execution.claims import Claims, NoClaims
from hybrid.execution.search_records import Searching, SearchRecords
from hybrid.execution.stage_view import StageView
from hybrid.execution.stage_work import without_secrets
from hybrid.folder.leases import BeatMonitor, LeaseTimeouts
from hybrid.folder.runs import Run
from hybrid.machine.terminal import count_of
from hybrid.plugins.faults import raise_attributed
from hybrid.protocols import Backend, Stage
from hybrid.records import Completion, Item, Record, Request
from hybrid.walks import Replay

NEIGHBOURS = 8
"""Items of a batch that one worker answers together, so that it need not wait for the records of others between two
batches of a strand.
"""
NUMBER = 6
"""Bytes of a key that name an item in a beat."""


@dataclass(frozen=True, slots=True)
class Others:
    """Who else works on a search, and the items that they say they hold, by the first bytes of their keys."""

    attempts: frozenset[str] = frozenset()
    held: frozenset[int] = frozenset()


class SearchWork:
    """A search of a run as one attempt works on it.

    `digests` are those of the models that answer, by role, "" being that of the stage. The items are not known
    beforehand, so workers share them without asking each other: every one computes who of them is to answer an item
    (rendezvous hashing of the attempts that are at work), and leaves the others' alone while these are alive.
    """

    grows: ClassVar[bool] = True
    size: ClassVar[int] = 0
    """Of a block, where other stages have blocks: single items are claimed."""

    def __init__(
        self, run: Run, stage: Stage, tasks: Mapping[str, Any], digests: Mapping[str, str], attempt: str
    ) -> None:
        self.run, self.stage, self.digests, self.attempt = run, stage, digests, attempt
        self._tasks = tasks
        self.claims: Claims = NoClaims()  # those of this machine's other workers
        self.roles: Collection[str] | None = None
        """The roles whose items are answered here, where the search is divided between two sides."""
        self.completed = SearchRecords(run, stage.name, self.digest, attempt)
        self._aside: frozenset[str] = frozenset()
        self._walking: Searching | None = None
        self._asked: dict[bytes, tuple[Item, str]] = {}  # what was given out: the item, and the history of its walk
        self._answered = deque[Record]()
        self._in_open_shard: list[int] = []  # answered items that this machine's other workers cannot read yet
        self._queue: list[tuple[bool, tuple[int, ...], int, bytes]] = []  # a heap of what this attempt is to answer
        self._queued_for: tuple[Replay | None, Others] = (None, Others())
        self._turn = itertools.count()
        self._checked = -1  # at which step of the walks they were last run again

    @property
    def digest(self) -> str:
        """The digest of the stage's own model."""
        return self.digests[""]

    def look(self, set_aside: Collection[str] = ()) -> None:
        """See what else is done by now. Failures in the shards `set_aside` are to be done again."""
        self._aside = frozenset(set_aside)
        with self.claims.looking():
            self.completed.look()

    def retry_failed(self) -> None:
        """Do again what has only failed."""
        self._walks()
        self._aside |= self.completed.failed_shards()

    def _walks(self) -> Searching:
        """The walks, gone on with all that has arrived. For the thread alone that works on the stage."""
        changed = self.completed.take_in(self._aside)
        while self._answered:
            changed.add(self.completed.add(self._answered.popleft()))
        if self._walking is None:
            self._walking = Searching(self.stage, self._tasks, self.digests, self.completed)
            if len(self.completed):
                self._walking.refuse_changed()
        else:
            self._walking.go_on(changed)
        return self._walking

    @property
    def total(self) -> int:
        """How many items are known so far."""
        return len((self._walking or self._walks()).replay.items)

    @property
    def left(self) -> int:
        """For how many items the walks wait; 0 when all have ended, and did the same when they were run again."""
        walks = self._walks()
        if not walks.replay.frontier and self._checked != walks.steps:
            walks.refuse_changed()
            self._checked = walks.steps
        return len(walks.replay.frontier)

    def view(self) -> StageView:
        """How the stage stands by what was seen at the last look and done here since."""
        replay, best = self._walks().replay, self.completed.best
        found = [one for key in replay.items if (one := best(key))]
        failures = [one.error.kind for one in found if one.error]
        return StageView(
            self.stage.name,
            self.digest,
            total=len(replay.items),
            done=len(found),
            failed=len(failures),
            again=sum(self.completed.set_aside(key) for key in replay.frontier),
            strange=sum(key not in replay.items for key in self.completed.histories),
            reasons=dict(Counter(failures)),
            refused=tuple(self.completed.refused),
            grows=True,
        )

    def others(self, monitor: BeatMonitor, timeouts: LeaseTimeouts) -> Others:
        """Who else works on it, as far as that is to be respected now."""
        others = self._others(monitor, timeouts.reclaim)
        if not self._asked and not self.may_begin(others):  # nothing else to do: a doubtful claim is no reason
            others = self._others(monitor, timeouts.idle)
        return others

    @staticmethod
    def nobody() -> Others:
        """What others hold where nobody else is at work."""
        return Others()

    def _others(self, monitor: BeatMonitor, within: float) -> Others:
        stage, siblings = self.stage.name, self.claims.others(within)
        attempts = siblings.attempts | monitor.at_work(stage, self.size, within, self.roles)
        return Others(attempts, siblings.blocks | monitor.claimed(stage, self.size, within))

    def may_begin(self, others: Others) -> bool:
        """Whether there is something to do that this worker is to do."""
        return self._open(others) is not None

    def claimed(self) -> list[int]:
        """The items that are held, by the first bytes of their keys, sorted. Called from any thread."""
        return sorted(_number(key) for key in list(self._asked))

    def _open(self, others: Others) -> bytes | None:
        """The next item that this worker is to answer and that nobody was given: embeddings first, then `Replay.order`.

        All of them are looked through only when others have come or gone, or there are none.
        """
        replay = self._walks().replay
        fresh: Iterable[bytes] = [replay.arrived.popleft() for _ in range(len(replay.arrived))]
        self._drop_answered(replay)
        if self._queued_for != (replay, others) or not (self._queue or fresh):
            self._queued_for, self._queue, fresh = (replay, others), [], replay.frontier
        for key in fresh:
            if key not in self._asked and self._for_here(replay.items[key]) and self._own(key, others):
                embeds = replay.items[key].request.embed  # that takes milliseconds, and a walk waits for it
                heappush(self._queue, (not embeds, replay.order[key], next(self._turn), key))
        self._drop_answered(replay)
        return self._queue[0][-1] if self._queue else None

    def _drop_answered(self, replay: Replay) -> None:
        """Take from the queue's beginning what is answered or given out by now."""
        while self._queue and (self._queue[0][-1] not in replay.frontier or self._queue[0][-1] in self._asked):
            heappop(self._queue)

    def _own(self, key: bytes, others: Others) -> bool:
        """Whether this attempt is the one to answer an item: items of one strand, and neighbours, go to one worker."""
        if not others.attempts or self._walking is None:
            return _number(key) not in others.held
        path, _, place = self._walking.replay.asked_by[key]
        unit = f"{path} {place // NEIGHBOURS}"
        mine = _weight(self.attempt, unit)
        return _number(key) not in others.held and all(_weight(one, unit) < mine for one in others.attempts)

    def _for_here(self, item: Item) -> bool:
        """Whether the model that an item asks is one of this side."""
        return self.roles is None or (item.role or self.stage.role) in self.roles

    @property
    def waits_for_others(self) -> bool:
        """Whether the search is divided, and all that its walks wait for is asked on the other side."""
        replay = self._walks().replay
        return self.roles is not None and not any(self._for_here(replay.items[key]) for key in replay.frontier)

    def requests(self, taken: Callable[[], Others | None]) -> Iterator[Request | None]:
        """What to ask the engines, until there is nothing more for this worker. None: nothing as long as nothing more
        is answered. A `taken` of None ends it: nothing may be begun any more.
        """
        while (others := taken()) is not None:
            if (key := self._open(others)) is not None:
                heappop(self._queue)
                if not self.claims.take(_number(key)):
                    continue
                if key in self._walks().replay.frontier:
                    yield self._given_out(key)
                else:  # its record was read just before it was claimed
                    self.claims.release([_number(key)])
            elif self._asked:
                yield None
            else:
                return

    def _given_out(self, key: bytes) -> Request:
        replay = self._walks().replay
        item = replay.items[key]
        if item.request.tuning or (item.request.adapter and not item.request.adapter.path):
            raise PluginFault(
                f"the stage '{self.stage.name}' is a search, and its item '{item.question:.200}' asks a model that is"
                " trained in this run",
                hint="a search asks models as they are: train and ask in a Tune stage that comes after it, or give the"
                " adapter's folder (`Adapter(digest, path)`)",
            )
        self._asked[key] = item, replay.asked_by[key][1]
        return replace(item.request, key=key.hex(), role=item.role)

    def record_of(self, completion: Completion) -> Record:
        """The record of an answer to what was given out. Called from any thread."""
        item, history = self._asked[bytes.fromhex(completion.key)]
        done = without_secrets(completion)
        return Record(done.key, item.task, item.question, item.view, item.sample, done, history)

    def answered(self, completion: Completion) -> Record:
        """The record of an answer. The walks go on with it when the next request is made, after it was kept."""
        record, key = self.record_of(completion), bytes.fromhex(completion.key)
        del self._asked[key]
        self._in_open_shard.append(_number(key))
        self._answered.append(record)
        return record

    def closed_shard(self) -> None:
        """Give back the claims on what is in a closed shard, where this machine's other workers find it."""
        self.claims.release(self._in_open_shard)
        self._in_open_shard = []

    def answers(self, engine: Backend, taken: Callable[[], Any]) -> Generator[Completion, None, None]:
        """What the engines answer to `requests`. Raises HybridError."""
        try:
            yield from engine.generate(self.requests(taken))
        except Exception as error:  # noqa: BLE001 - engines have errors of many libraries
            first = next((item.question for item, _ in self._asked.values()), "")
            waited = f"{count_of(len(self._asked), 'item')} waited, the first for the question '{first:.200}'"
            raise_attributed(f"the backend '{self.run.models[self.stage.role].backend}'", error, waited)

    @property
    def unanswered(self) -> int:
        """Items that were given to an engine and have no answer."""
        return len(self._asked)

    def give_up(self) -> None:
        """Forget what was given out and never answered: it is left to do."""
        self.claims.release()
        self._in_open_shard = []
        self._asked.clear()
        self._queue.clear()


def _number(key: bytes) -> int:
    return int.from_bytes(key[:NUMBER], "big")


def _weight(attempt: str, unit: str) -> bytes:
    return hashlib.blake2b(f"{attempt} {unit}".encode(), digest_size=16).digest()

"""The status of a stage: how many of its items are answered, failed or missing, and where their records are.

`status`, `fetch` and `retry` compute it from the index, which knows the verified shards and the stage's items; no
record is held in memory. A process that works on the stage has the same type from `StageWork.view`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from hybrid.canonical import Json, digest
from hybrid.errors import BadData, HybridError
from hybrid.execution.chain import is_derived
from hybrid.execution.index import KEY, Index, Known, cut, in_parts
from hybrid.execution.item_keys import identity_of, listing, parts_of
from hybrid.folder.medium import Disk, read_each, read_or_error
from hybrid.folder.names import ShardName, stage_name
from hybrid.folder.runs import Run
from hybrid.folder.shards import MAX_FILE, shard_paths, verify_shard
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Stage
from hybrid.work import Rounds, Search

AT_ONCE = 500
"""Shards between two writes to the index."""
APART = 50_000
"""Number of unread records from which a second process that lists the items is worth its start."""
MOST_KINDS = 50
LONGEST_KIND = 60
MOST_TOKENS = 10**15
AGAIN = ""
"""Stands, among the kinds of failures, for those that are to be done again. No kind is empty."""

GOOD, GOOD_HERE, FAILED, FAILED_HERE, ASIDE, COUNTED = 1, 2, 4, 8, 16, 32
"""Flags of an item: answered or failed, anywhere or in a shard received here; failed in a shard that is set aside;
counted among the reasons.
"""


@dataclass(frozen=True, slots=True)
class StageView:
    """Counts of a stage's items. `total` is None when it is not known here: `why` says why, `error` if it was an error.

    Of the items that are `done`, `failed` are failures (counted by kind in `reasons`) and `received` are on this
    machine's disk. `handed_on` of the failures are those of earlier stages (`counted_once`). `again` items failed and a
    retry was ordered: they are not done. `shards` and `copies` count the files in the folder and on this machine;
    `failed_in` are the paths of those with failures, `refused` says which files were passed over. `strange` counts
    records that belong to no item. `waits` names the unfinished stage that the items depend on. `content` is a digest
    of the stage's items and shards. The items of a stage that `grows`, a search, are those that are known so far; none
    is left when it has ended. `tokens` are the sums of prompt and completion tokens over all records, those of repeated
    and failed items too; None where no record was read.
    """

    name: str
    model: str = ""
    total: int | None = None
    why: str = ""
    waits: str = ""
    done: int = 0
    failed: int = 0
    handed_on: int = 0
    received: int = 0
    again: int = 0
    strange: int = 0
    shards: int = 0
    copies: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    failed_in: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    content: str = ""
    error: HybridError | None = None
    grows: bool = False
    tokens: tuple[int, int] | None = None

    @property
    def so_far(self) -> bool:
        """Whether more items may come than the total: of a search that has not ended."""
        return self.grows and self.left != 0

    @property
    def own_failures(self) -> int:
        """How many items failed in this stage, and not in an earlier one."""
        return self.failed - self.handed_on

    @property
    def left(self) -> int | None:
        """How many items are not done."""
        return None if self.total is None else self.total - self.done

    @property
    def missing(self) -> int | None:
        """How many items have no record."""
        return None if self.left is None else self.left - self.again

    def to_json(self) -> dict[str, Json]:
        counts = ("total", "done", "failed", "handed_on", "received", "again", "strange", "shards", "copies")
        told: dict[str, Json] = {name: getattr(self, name) for name in ("name", "model", *counts)}
        return {
            **told,
            "waits": self.waits,
            "reasons": self.reasons,
            "unknown": self.why,
            "passed_over": list(self.refused),
            "so_far": self.so_far,
            "tokens": list(self.tokens or ()),
        }


class Shards:
    """The shards of a stage that are listed in the folder or in this machine's store, verified as needed."""

    def __init__(self, run: Run, store: Disk, stage: str, index: Index, model: str = "") -> None:
        """`model` is the model digest that an earlier stage fixes for this one, "" when none does."""
        self.run, self.name, self.place = run, stage, f"{run.place}/{stage_name(stage)}"
        self._bound = model or run.pinned_digest(stage)
        self.refused: list[str] = []
        self._store, self._index = store, index
        looked_at = not run.sources or run.folder in run.sources
        self.in_folder = set(shard_paths(run.folder, self.place, self.refused)) if looked_at else set[str]()
        self.here = set(shard_paths(store, self.place, self.refused))
        self.paths = sorted(self.in_folder | self.here, key=lambda path: path.split("/"))
        self.known = index.known(self.place)
        self._fresh: list[tuple[str, Known, bytes]] = []
        self._arrived: list[str] = []  # known, and their copy here is new or has changed
        self._looked: set[str] = set()

    @property
    def unread(self) -> int:
        """How many records are in files that were never read, according to their names."""
        names = (ShardName.parse(path.rpartition("/")[2]) for path in self.paths if path not in self.known)
        return sum(name.count for name in names if name)

    def model(self) -> str:
        """The digest of the model whose records count, "" while nothing decides it, as in `Run.model_digest`."""
        if self._bound:
            return self._bound
        return next((self.known[path].model for path in self.paths if self._counts(path)), "")

    def read(self) -> None:
        """Verify new shards, and copies on this machine that are new or have changed since they were verified."""
        new = [path for path in self.paths if not (path in self.known or path in self.here or path in self._looked)]
        for path, data in read_each(self.run.folder, new, MAX_FILE):
            self._looked.add(path)
            self._take(path, data, received=0)
        for path in self.paths:
            self._counts(path)
        self._keep()
        self._index.receive((path, self.known[path]) for path in self._arrived)

    def present(self, model: str) -> dict[str, bool]:
        """The shards that count, by path, and whether this machine has a verified copy of each."""
        found: dict[str, bool] = {}
        for path in filter(self._counts, self.paths):
            if self.known[path].model == model:
                found[path] = self._received(path)
            else:
                self.refused.append(f"{path}: was answered by another model than the run's, passed over")
        return found

    def _received(self, path: str) -> bool:
        return path in self.here and bool(self.known[path].received)

    def _counts(self, path: str) -> bool:
        """Whether a shard exists and is valid; it is read if it was not verified yet."""
        if path not in self._looked:
            self._looked.add(path)
            if path not in self.known:
                self._look_everywhere(path)
            elif path in self.here and self.known[path].received != (mark := self._store.fingerprint(path)):
                self.known[path] = replace(self.known[path], received=mark if self._is_copy(path) else 0)
                self._arrived.append(path)
        return path in self.known and (path in self.in_folder or self._received(path))

    def _look_everywhere(self, path: str) -> None:
        """Verify a new shard: the copy on this machine's disk, else the file in the folder."""
        mark = self._store.fingerprint(path) if path in self.here else 0
        here = path in self.here and self._take(path, read_or_error(self._store, path, MAX_FILE), received=mark)
        if not here and path in self.in_folder:
            self._take(path, read_or_error(self.run.folder, path, MAX_FILE), received=0)

    def _take(self, path: str, data: bytes | HybridError, *, received: int) -> bool:
        """Verify the content of a shard, or take the error of reading it. Returns whether it is valid."""
        try:
            if isinstance(data, HybridError):
                raise data
            known, keys = self._verified(path, data)
        except HybridError as error:  # one bad file must not hide the others
            self.refused.append(error.message)
            return False
        self.known[path] = replace(known, received=received)
        self._fresh.append((path, self.known[path], keys))
        if len(self._fresh) >= AT_ONCE:
            self._keep()
        return True

    def _verified(self, path: str, data: bytes) -> tuple[Known, bytes]:
        shard = verify_shard(path, data)
        if not self.run.owns(path, shard):
            raise BadData(f"{path}: belongs to run {str(shard.header['run'])[:80]!r}, passed over")
        kinds = tuple(clean_line(kind, LONGEST_KIND) for _, kind in shard.failed)
        model, sha256 = str(shard.header["model"]["digest"]), hashlib.sha256(data).digest()
        tokens = (0, 0) if is_derived(shard.header["model"]) else shard.tokens  # those of answers that it repeats
        known = Known(model, sha256, kinds, tokens=_bounded(tokens))
        return known, b"".join([key[:KEY] for key in (*shard.answered, *(key for key, _ in shard.failed))])

    def _is_copy(self, path: str) -> bool:
        """Whether the file on this machine's disk is the shard that was verified in the folder."""
        try:
            data = self._store.read(path, MAX_FILE)
            return hashlib.sha256(data).digest() == self.known[path].sha256 or bool(self._verified(path, data))
        except HybridError as error:
            self.refused.append(f"{error.message}: the copy on this machine; `hybrid fetch` copies it again")
            return False

    def _keep(self) -> None:
        self._index.add(self._fresh)
        self._fresh = []


def stage_views(
    run: Run,
    stages: Sequence[tuple[str, Stage | None]],
    store: Disk,
    index: Index,
    aside: Collection[str],
    *,
    why: str = "",
    again_waits: bool = True,
    tell: Callable[[int], None] = lambda records: None,
) -> list[StageView]:
    """The status of the stages of a bound run, given as (name, stage), in order.

    A stage is None where its items cannot be listed; `why` says why. Read are this machine's copies in `store` and, if
    it is among the run's sources, the folder. Failures in the shards `aside` are to be done again; with `again_waits`,
    later stages wait for them. `tell` is called with the number of records that are about to be read.
    """
    views: dict[str, StageView] = {}
    for name, stage in stages:
        shards = Shards(run, store, name, index, views[run.roots[name]].model if name in run.roots else "")
        tell(shards.unread)
        earlier = [views[one] for one in stage.after] if stage else []
        waits = next((one.name for one in earlier if (one.left if again_waits else one.missing) != 0), "")
        if waits:
            view = _view(shards, index, None, why=f"waits for the stage '{waits}'", aside=aside)
            views[name] = replace(view, waits=waits)
        else:
            made_of = digest([one.content for one in earlier]) if earlier else ""
            views[name] = _view(shards, index, stage, why=why, aside=aside, earlier=made_of)
    return counted_once(list(views.values()), [stage for _, stage in stages])


def counted_once(views: Sequence[StageView], stages: Sequence[Stage | None]) -> list[StageView]:
    """The views of all stages of a run, with `handed_on` set, so that a failure that later stages hand on counts once.

    A stage that asks no model has no failures of its own, but may say why there is no text. What it says is taken as
    handed on when a stage before it has failures of the same kind, or some that are just being done again.
    """
    found: list[StageView] = []
    kinds: dict[str, set[str]] = {}  # by stage: the kinds of failures there and in the stages before it
    for view, stage in zip(views, stages, strict=True):
        earlier = set[str]().union(*(kinds.get(name, ()) for name in stage.after)) if stage else set[str]()
        kinds[view.name] = earlier | view.reasons.keys() | ({AGAIN} if view.again else set())
        derived = stage is not None and not stage.asks_a_model
        same = [count for kind, count in view.reasons.items() if kind in earlier or AGAIN in earlier]
        found.append(replace(view, handed_on=sum(same) if derived else 0))
    return found


def _view(
    shards: Shards, index: Index, stage: Stage | None, *, why: str, aside: Collection[str], earlier: str = ""
) -> StageView:
    """The status of a stage; `stage` is None where its items cannot be listed, `why` says why.

    Failures in the shards `aside` are to be done again. `earlier` is a digest of the stages that the items depend on.
    """
    model = shards.model()
    with ExitStack() as stack:
        identity, wait, failure = "", None, None
        by_records = stage is not None and isinstance(stage.work, Search | Rounds)
        if stage and not by_records:
            identity = identity_of(stage, model, earlier)
            if index.items(shards.place)[0] != identity:
                apart = shards.unread >= APART and not stage.after  # its process would lack the copies here
                wait = stack.enter_context(listing(shards.run, stage, model, apart=apart))
        shards.read()
        present = shards.present(model)
        if stage and by_records:  # which items there are, or which rounds count, follows from the records
            identity = identity_of(stage, model, digest([earlier, sorted(present)]))
            wait = None if index.items(shards.place)[0] == identity else partial(_parts, shards.run, stage, model)
        try:
            parts = wait() if wait else iter(())
        except HybridError as error:
            stage, why, failure = None, error.message, error
        if not stage:  # only the items that have records are known
            identity = f"seen {digest(sorted(present))}"
            parts = in_parts(key for path in present for key in cut(index.keys(path)))
        with index.alone():
            if index.items(shards.place)[0] != identity:
                index.set_items(shards.place, identity, parts)
            index.number(shards.place, present)
            view = _counted(shards, index, present, aside)
    total = view.total if stage else None
    refused, made_of = tuple(shards.refused), digest([identity, sorted(present)])
    told = replace(view, model=model, total=total, why=why, error=failure, refused=refused, content=made_of)
    return replace(told, grows=stage is not None and isinstance(stage.work, Search))


def _parts(run: Run, stage: Stage, model: str) -> Iterator[bytes]:
    return iter(list(parts_of(run, stage, model)))


def _counted(shards: Shards, index: Index, present: Mapping[str, bool], aside: Collection[str]) -> StageView:
    total = index.items(shards.place)[1]
    marks, strange = bytearray(total + 1), 0
    for path, numbers in index.numbers(shards.place, present):
        _mark(marks, numbers, len(shards.known[path].kinds), here=present[path], aside=path in aside)
        strange += numbers.count(total)
    del marks[total]
    states = Counter(marks)

    def count(holds: Callable[[int], object]) -> int:
        return sum(count for state, count in states.items() if holds(state))

    failed = count(lambda state: state & FAILED and not state & GOOD)
    reasons, failed_in = _reasons(shards, index, present, aside, marks) if failed else ({}, [])
    return StageView(
        name=shards.name,
        total=total,
        done=count(lambda state: state & (GOOD | FAILED)),
        failed=failed,
        received=count(lambda state: state & GOOD_HERE or (state & FAILED_HERE and not state & GOOD)),
        again=states[ASIDE],
        strange=strange,
        shards=len(present.keys() & shards.in_folder),
        copies=sum(present.values()),
        reasons=reasons,
        failed_in=tuple(failed_in),
        tokens=_summed(shards.known[path].tokens for path in present),
    )


def _summed(tokens: Iterable[tuple[int, int]]) -> tuple[int, int]:
    prompt, completion = zip((0, 0), *tokens, strict=True)
    return sum(prompt), sum(completion)


def _bounded(tokens: tuple[int, int]) -> tuple[int, int]:
    """The sums as a database can keep them; what records claim is untrusted."""
    prompt, completion = (min(max(0, one), MOST_TOKENS) for one in tokens)
    return prompt, completion


def _mark(marks: bytearray, numbers: Sequence[int], failures: int, *, here: bool, aside: bool) -> None:
    """Set the flags of the items of one shard, whose last `failures` items are its failures."""
    answers = len(numbers) - failures
    flag = GOOD | GOOD_HERE if here else GOOD
    for number in numbers[:answers]:
        marks[number] |= flag
    flag = ASIDE if aside else FAILED | FAILED_HERE if here else FAILED
    for number in numbers[answers:]:
        marks[number] |= flag


def _reasons(
    shards: Shards, index: Index, present: Mapping[str, bool], aside: Collection[str], marks: bytearray
) -> tuple[dict[str, int], list[str]]:
    """The number of failed items by kind, and the paths of the shards with their failures.

    An item that failed several times counts under the kind in the first of its shards.
    """
    reasons, failed_in = Counter[str](), list[str]()
    for path, numbers in index.numbers(shards.place, present):
        kinds = shards.known[path].kinds if path not in aside else ()
        failures = numbers[len(numbers) - len(kinds) :]
        if any(number < len(marks) and not marks[number] & GOOD for number in failures):
            failed_in.append(path)
        for number, kind in zip(failures, kinds, strict=True):
            if number < len(marks) and not marks[number] & (GOOD | COUNTED):
                marks[number] |= COUNTED
                reasons[kind if kind in reasons or len(reasons) < MOST_KINDS else "(other)"] += 1
    return dict(reasons.most_common()), failed_in

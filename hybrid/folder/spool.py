"""The spool: what was made on this machine waits on its own disk until a receipt says that the other side has it.

Writing goes to the local disk first and returns when it is safe there. Carrying copies files into the shared folder and
may fail at any moment. Only a receipt that names a shard's path and sha256 frees it. Records and notes go before what
training keeps, which may be gigabytes; but a record that names an adapter goes after that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary
from hybrid.folder.medium import Entry, Medium, NotThere, Store
from hybrid.folder.names import ShardName, allowed
from hybrid.folder.notes import verify_note
from hybrid.folder.runs import check_mark
from hybrid.folder.shards import MAX_FILE, Shard, verify_shard
from hybrid.folder.spec import MAX_SPEC, check_spec
from hybrid.folder.tensors import is_adapter, is_tensors, verify_part
from hybrid.machine.clock import Clock

MISSED = 60.0
"""Seconds for which a run that the folder does not have is left alone."""
TENSORS_SECONDS = 10.0
"""Seconds of one round that go to tensors: then beats and new records have their turn."""
LOOK_AGAIN = 600.0
"""Seconds after which a file that was carried and has no receipt is looked for in the folder."""


class Spool:
    """Files on a local disk, each to be carried into the folder. A Store of its own: shards are written through it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._carried: dict[str, float | None] = dict.fromkeys(walk(store, "runs"))  # path -> when, None: not yet
        self.stranded: dict[str, str] = {}  # run or file -> why it cannot be carried now
        self._missed: dict[str, float] = {}  # run -> when the folder was seen not to have it

    def entries(self, place: str) -> list[Entry]:
        return self._store.entries(place)

    def read(self, path: str, limit: int) -> bytes:
        return self._store.read(path, limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        """Keep a file: safe on this machine's disk on return, to be carried from now on."""
        self._store.write(path, data, heal=heal)
        self._carried[path] = None

    def remove(self, path: str) -> None:
        """Drop a file that nobody needs any more, carried or not."""
        self._free(path)

    @property
    def carriable(self) -> list[str]:
        """The files that are not in the folder yet and whose run it has, as far as is known; sorted."""
        return [path for path in self.waiting if path.split("/")[1] not in self.stranded]

    @property
    def waiting(self) -> list[str]:
        """The files that are not in the folder yet, sorted."""
        return sorted(path for path, when in list(self._carried.items()) if when is None)

    @property
    def unreceipted(self) -> list[str]:
        """The shards that no receipt names yet, carried or not, sorted."""
        return sorted(path for path in list(self._carried) if is_shard(path))

    def carry(self, folder: Medium) -> None:
        """Copy what is waiting into the folder. Raises Temporary at the first failure; the rest waits on.

        A run that the folder does not have is put aside for a minute, so that it keeps nothing else from being carried.
        """
        waiting = self.waiting
        if not waiting:
            return
        guard_mark(folder)
        there = {run for run in sorted({path.split("/")[1] for path in waiting}) if self._is_there(folder, run)}
        waiting = [path for path in waiting if path.split("/")[1] in there]
        tensors = [path for path in waiting if is_tensors(path)]
        after = [path for path in waiting if is_shard(path) and self._names_one(path, tensors)]
        for path in waiting:
            if not is_tensors(path) and path not in after:
                self._carry(folder, path)
        self._carry_tensors(folder, tensors)
        left = [path for path in tensors if self._carried.get(path, 0.0) is None]
        for path in after:
            if not self._names_one(path, left):
                self._carry(folder, path)

    def _names_one(self, path: str, tensors: Collection[str]) -> bool:
        """Whether a shard names an adapter that is among the waiting `tensors`."""
        data = self._whole(path) if tensors else None
        return data is not None and bool(adapters_of(verify_shard(path, data)) & {one.split("/")[3] for one in tensors})

    def _is_there(self, folder: Medium, run: str) -> bool:
        if self._clock.now() - self._missed.get(run, -math.inf) < MISSED:
            return False
        self.stranded.pop(run, None)
        try:
            guard_run(folder, run)
        except Temporary as error:
            self.stranded[run], self._missed[run] = error.message, self._clock.now()
            return False
        return True

    def _carry_tensors(self, folder: Medium, paths: list[str]) -> None:
        """Carry for a while, adapters first, for which a record may be waiting."""
        began = self._clock.now()
        for path in sorted(paths, key=lambda one: (not is_adapter(one), one)):
            if self._clock.now() - began > TENSORS_SECONDS:
                return
            self._carry(folder, path)

    def _carry(self, folder: Medium, path: str) -> None:
        data = self._whole(path)
        if data is None:
            return
        try:
            folder.write(path, data, heal=True)
            self.stranded.pop(path, None)
        except BadData as error:  # no file stands there: looked at again later, and no reason to stop the others
            self.stranded[path] = error.message
        self._carried[path] = self._clock.now()
        if not is_shard(path) and not is_adapter(path):  # a log or a checkpoint: nobody gives a receipt for it
            self._free(path)

    def _whole(self, path: str) -> bytes | None:
        """The bytes of a file in the spool; None, and no longer ours to carry, when it is gone or not whole.

        Another process on this machine may have freed it, or be writing it now. What a crash cut short was never told
        to be safe, and is left where it is.
        """
        try:
            data = self._store.read(path, MAX_FILE)
            verified(path, data)
        except (NotThere, BadData):
            self._carried.pop(path, None)
            return None
        return data

    def look_again(self, folder: Medium) -> None:
        """Find files that were carried long ago and are not in the folder as they should be.

        A mount that died may have eaten them, or a sync program may have put a damaged copy over one. Of a run without
        any shard here everything has arrived: then its adapters are freed.
        """
        runs = {path.split("/")[1] for path in self.unreceipted}
        old = self._clock.now() - LOOK_AGAIN
        due = [path for path, when in list(self._carried.items()) if when is not None and when <= old]
        for path in due:
            if is_adapter(path) and path.split("/")[1] not in runs:
                self._free(path)
                continue
            data = self._whole(path)
            if data is not None:
                self._carried[path] = self._clock.now() if _there(folder, path) == data else None

    def settle(self, receipts: Mapping[str, str]) -> None:
        """Free the shards that `receipts` (path -> sha256 of the content) name. Another one under that path stays."""
        for path in [path for path in list(self._carried) if path in receipts and is_shard(path)]:
            data = self._whole(path)
            if data is not None and verify_shard(path, data).sha256 == receipts[path]:
                self._free(path)

    def _free(self, path: str) -> None:
        self._store.remove(path)
        self._carried.pop(path, None)


def guard_mark(folder: Medium) -> None:
    """Make sure that it is a folder of ours. Raises Temporary when it is not, or does not answer."""
    try:
        check_mark(folder)
    except BadData as error:
        raise Temporary(error.message, hint="is it the right folder? nothing was written there") from error


def guard(folder: Medium, run: str) -> None:
    """Make sure that the folder is the one with this run, not a plain folder behind a dead mount or another account's.

    Raises Temporary when it is not, or does not answer.
    """
    guard_mark(folder)
    guard_run(folder, run)


def guard_run(folder: Medium, run: str) -> None:
    """Make sure that this run is in a folder of ours. Raises Temporary when it is not, or does not answer."""
    path = f"runs/{run}/run.json"
    try:
        check_spec(decode(folder.read(path, MAX_SPEC), what=path), run)
    except (NotThere, BadData) as error:
        raise Temporary(
            f"{folder}: not the folder that holds {run}, or not now: {error.message}",
            hint="is it mounted, and from the right account? nothing was written there",
        ) from error


def _there(folder: Medium, path: str) -> bytes:
    """What the folder shows at `path`; nothing when there is no file, or another kind of thing."""
    try:
        return folder.read(path, MAX_FILE)
    except (NotThere, BadData):
        return b""


def verified(path: str, data: bytes) -> None:
    """Raise BadData when the bytes are not those of the shard, note or part of tensors that belongs at `path`."""
    (verify_shard if is_shard(path) else verify_part if is_tensors(path) else verify_note)(path, data)


def adapters_of(shard: Shard) -> set[Any]:
    """The adapters that its records say they trained."""
    return {adapter for one in shard.records if isinstance(adapter := one.get("trained", {}).get("adapter"), str)}


def is_shard(path: str) -> bool:
    """Whether the file at `path` holds records."""
    return ShardName.parse(path.rpartition("/")[2]) is not None


def walk(medium: Medium, place: str) -> Iterator[str]:
    """The path of every file below `place` whose name may stand in a folder. Raises Temporary."""
    for entry in sorted(medium.entries(place), key=lambda one: one.name):
        if not allowed(entry.name):
            continue
        if entry.kind == "folder":
            yield from walk(medium, f"{place}/{entry.name}")
        elif entry.kind == "file":
            yield f"{place}/{entry.name}"

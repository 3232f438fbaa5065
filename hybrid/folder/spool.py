"""The spool: files made on this machine stay on its own disk until a receipt confirms that the other side has them.

A write returns when the file is safe on the local disk. The upload (`carry`) copies files into the shared folder and
may fail at any moment. Only a receipt with a shard's path and sha256 frees it. Segments are uploaded first, since other
machines wait for them, and records and notes before tensors, which may be gigabytes; but a record that names an adapter
is uploaded after that adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary
from hybrid.folder.medium import Entry, Medium, NotThere, Store
from hybrid.folder.names import ShardName, TensorName, allowed
from hybrid.folder.notes import verify_note
from hybrid.folder.outdated import Checkpoints
from hybrid.folder.runs import check_mark
from hybrid.folder.segments import is_segment, verify_segment
from hybrid.folder.shards import MAX_FILE, Shard, verify_shard
from hybrid.folder.spec import MAX_SPEC, check_spec
from hybrid.folder.tensors import is_adapter, is_tensors, verify_part
from hybrid.machine.clock import Clock

MISSED = 60.0
"""Seconds until a run that the folder did not have is looked for again."""
TENSORS_SECONDS = 10.0
"""Most seconds for tensors in one round, so that heartbeats and new records are not delayed."""
RECHECK = 600.0
"""Seconds after which an uploaded file without a receipt is checked in the folder."""


class Spool:
    """Files on a local disk that wait for upload or a receipt. It is a Store: shards are written through it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._carried: dict[str, float | None] = dict.fromkeys(walk(store, "runs"))  # path -> time, None: not yet
        self.stranded: dict[str, str] = {}  # run or file -> why it cannot be uploaded now
        self._checkpoints = Checkpoints()
        self._missed: dict[str, float] = {}  # run -> when the folder was seen not to have it

    def entries(self, place: str) -> list[Entry]:
        return self._store.entries(place)

    def read(self, path: str, limit: int) -> bytes:
        return self._store.read(path, limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        """Write a file and queue it for upload. On return it is safe on this machine's disk."""
        self._store.write(path, data, heal=heal)
        self._carried[path] = None

    def remove(self, path: str) -> None:
        """Delete a file, uploaded or not."""
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
        """The shards that no receipt names yet, uploaded or not, sorted."""
        return sorted(path for path in list(self._carried) if is_shard(path))

    def carry(self, folder: Medium) -> None:
        """Copy the waiting files into the folder. Raises Temporary at the first failure; the rest stays waiting.

        A run that the folder does not have is skipped for a minute, so that it does not hold up the other runs.
        """
        waiting = self.waiting
        if not waiting:
            return
        guard_mark(folder)
        there = {run for run in sorted({path.split("/")[1] for path in waiting}) if self._has_run(folder, run)}
        waiting = [path for path in waiting if path.split("/")[1] in there]
        tensors = [path for path in waiting if is_tensors(path)]
        after = [path for path in waiting if is_shard(path) and self._names_adapter_in(path, tensors)]
        for path in sorted(waiting, key=lambda one: not is_segment(one)):
            if not is_tensors(path) and path not in after:
                self._carry(folder, path)
        self._carry_tensors(folder, tensors)
        self._checkpoints.remove_outdated(folder)
        left = [path for path in tensors if self._carried.get(path, 0.0) is None]
        for path in after:
            if not self._names_adapter_in(path, left):
                self._carry(folder, path)

    def _names_adapter_in(self, path: str, tensors: Collection[str]) -> bool:
        """Whether a shard names an adapter that is among the waiting `tensors`."""
        data = self._read_verified(path) if tensors else None
        return data is not None and bool(adapters_of(verify_shard(path, data)) & {one.split("/")[3] for one in tensors})

    def _has_run(self, folder: Medium, run: str) -> bool:
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
        """Upload tensors for TENSORS_SECONDS; adapters first, since records may wait for them."""
        began = self._clock.now()
        for path in sorted(paths, key=lambda one: (not is_adapter(one), one)):
            if self._clock.now() - began > TENSORS_SECONDS:
                return
            self._carry(folder, path)
            for segment in filter(is_segment, self.carriable):  # published meanwhile
                self._carry(folder, segment)

    def _carry(self, folder: Medium, path: str) -> None:
        data = self._read_verified(path)
        if data is None:
            return
        try:
            folder.write(path, data, heal=True)
            self.stranded.pop(path, None)
        except BadData as error:  # something else is at that path: tried again later, and the other files go on
            self.stranded[path] = error.message
        guard_mark(folder)  # a mount that has died meanwhile leaves a plain folder, and this file may be in that
        self._carried[path] = self._clock.now()
        if not (is_shard(path) or is_adapter(path) or is_segment(path)):  # notes and checkpoints get no receipt
            if path not in self.stranded and (name := TensorName.parse(path.rpartition("/")[2])):
                self._checkpoints.uploaded(path, name)
            self._free(path)

    def _read_verified(self, path: str) -> bytes | None:
        """The bytes of a file in the spool; None when it is missing or invalid, and then it is no longer uploaded.

        Another process on this machine may have freed it, or be writing it now. A file cut short by a crash was never
        reported as safe, and is left where it is.
        """
        try:
            data = self._store.read(path, MAX_FILE)
            verified(path, data)
        except (NotThere, BadData):
            self._carried.pop(path, None)
            return None
        return data

    def recheck(self, folder: Medium) -> None:
        """Mark files that were uploaded RECHECK seconds ago and are missing or damaged in the folder as waiting again.

        A mount that died may have lost them, or a sync program may have overwritten one with a damaged copy. When no
        shard of a run is left here, all its shards have receipts, and its adapters are freed. A segment gets no
        receipt, and is freed when it is still in the folder now.
        """
        runs = {path.split("/")[1] for path in self.unreceipted}
        old = self._clock.now() - RECHECK
        due = [path for path, when in list(self._carried.items()) if when is not None and when <= old]
        for path in due:
            if is_adapter(path) and path.split("/")[1] not in runs:
                self._free(path)
                continue
            data = self._read_verified(path)
            if data is None:
                continue
            there = _content_at(folder, path) == data
            self._carried[path] = self._clock.now() if there else None
            if there and is_segment(path):
                self._free(path)

    def release(self, receipts: Mapping[str, str]) -> None:
        """Free the shards in `receipts` (path -> sha256 of the content). A shard of other content stays."""
        for path in [path for path in list(self._carried) if path in receipts and is_shard(path)]:
            data = self._read_verified(path)
            if data is not None and verify_shard(path, data).sha256 == receipts[path]:
                self._free(path)

    def _free(self, path: str) -> None:
        self._store.remove(path)
        self._carried.pop(path, None)


def guard_mark(folder: Medium) -> None:
    """Check that `folder` is a folder of hybrid. Raises Temporary when it is not, or does not answer."""
    try:
        check_mark(folder)
    except BadData as error:
        raise Temporary(error.message, hint="is it the right folder? nothing was written there") from error


def guard(folder: Medium, run: str) -> None:
    """Check that the folder holds this run, and is not a plain folder behind a dead mount or of another account.

    Raises Temporary when it is not, or does not answer.
    """
    guard_mark(folder)
    guard_run(folder, run)


def guard_run(folder: Medium, run: str) -> None:
    """Check that this run is in the folder. Raises Temporary when it is not, or the folder does not answer."""
    path = f"runs/{run}/run.json"
    try:
        check_spec(decode(folder.read(path, MAX_SPEC), what=path), run)
    except (NotThere, BadData) as error:
        raise Temporary(
            f"{folder}: not the folder that holds {run}, or not now: {error.message}",
            hint="is it mounted, and from the right account? nothing was written there",
        ) from error


def _content_at(folder: Medium, path: str) -> bytes:
    """The content at `path` in the folder; empty when there is no file, or no plain one."""
    try:
        return folder.read(path, MAX_FILE)
    except (NotThere, BadData):
        return b""


def verified(path: str, data: bytes) -> None:
    """Raise BadData when the bytes are not those of the shard, note, segment or tensors that belong at `path`."""
    verify: Callable[[str, bytes], object] = (
        verify_shard if is_shard(path)
        else verify_part if is_tensors(path)
        else verify_segment if is_segment(path)
        else verify_note
    )  # fmt: skip
    verify(path, data)


def adapters_of(shard: Shard) -> set[Any]:
    """The adapters that the shard's records name as trained."""
    return {adapter for one in shard.records if isinstance(adapter := one.get("trained", {}).get("adapter"), str)}


def is_shard(path: str) -> bool:
    """Whether the file at `path` has the name of a shard."""
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

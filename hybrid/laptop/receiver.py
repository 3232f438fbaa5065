"""The laptop's side of the protocol: receive shards and acknowledge them, and give orders.

A shard is verified, copied to this machine's disk and only then named in an ack, on which its worker frees its spool.
Acks and orders are stored here as well, and are written again when the folder has lost or damaged them. A shard whose
copy here is damaged is received again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from hybrid.canonical import Json
from hybrid.errors import BadData, CannotRun, HybridError, Temporary
from hybrid.folder import orders
from hybrid.folder.medium import Disk, NotThere, Store
from hybrid.folder.names import SEGMENTS, NoteName
from hybrid.folder.notes import Note, note_paths, pack_note, read_notes
from hybrid.folder.orders import Orders, known_orders
from hybrid.folder.runs import Run
from hybrid.folder.segments import MAX_PACKED, segment_paths, verify_segment
from hybrid.folder.shards import MAX_FILE, Shard, shard_paths, verify_payload, verify_shard
from hybrid.machine import home

MOST_NAMED = 5000
"""Most shards in one ack or order, so that a note stays far below its size limit."""


@dataclass(slots=True)
class Received:
    """The result of `receive`: numbers of new shards, records and segments, and why others were refused.

    `healed` shards were here already, but damaged or deleted. `unsent` is why not all acks and orders could be written
    into the folder: the same command tries again.
    """

    shards: int = 0
    records: int = 0
    healed: int = 0
    segments: int = 0
    refused: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # the shards among them, by path
    unsent: Temporary | CannotRun | None = None


class Receiver:
    """Receives the shards of one run for the reader `name`. `store` is this machine's disk."""

    def __init__(self, run: Run, store: Store, name: str) -> None:
        self.run, self._store, self._name = run, store, name

    def receive(self, stages: list[str]) -> Received:
        """Receive new shards and acknowledge them. Raises Temporary when the folder is away or this disk is full.

        Shards that were copied before the error are acknowledged by the next call.
        """
        result = Received()
        acked = acknowledged(self._store, self.run.id, self._name)
        fresh = self._fresh(stages, acked, result)
        while some := list(islice(fresh, MOST_NAMED)):
            self._keep("ack", {"received": {path: sha256 for path, sha256, _ in some}})
            result.shards += len(some)
            result.records += sum(count for _, _, count in some)
        try:
            self.write_again()
        except (Temporary, CannotRun) as error:  # the shards are usable all the same
            result.unsent = error
        return result

    def _fresh(self, stages: list[str], acked: Collection[str], result: Received) -> Iterator[tuple[str, str, int]]:
        """Path, sha256 of the content and record count of each shard that is now here and not acknowledged."""
        for stage in stages:
            place = f"{self.run.place}/{stage}"
            lost = {path for path in acked if path.startswith(f"{place}/") and not whole(self._store, path)}
            for path in shard_paths(self.run.folder, place, result.refused):
                if path in acked and path not in lost:
                    continue
                shard = self._taken(path, result)
                if shard and path in lost:
                    lost.remove(path)
                    result.healed += 1
                elif shard:
                    yield path, shard.sha256, shard.name.count
            result.refused += [f"{path}: was received, and its copy here is damaged or gone" for path in sorted(lost)]

    def receive_segments(self, result: Received) -> None:
        """Copy what the run's loops have published, and is not whole here, to this machine. Raises Temporary."""
        for path in segment_paths(self.run.folder, f"{self.run.place}/{SEGMENTS}", 3):
            if _whole_segment(self._store, path):
                continue
            try:
                verify_segment(path, data := self.run.folder.read(path, MAX_PACKED))
            except HybridError as error:
                result.refused.append(error.message)
                continue
            self._store.write(path, data, heal=True)
            result.segments += 1

    def _taken(self, path: str, result: Received) -> Shard | None:
        """The shard in the folder, copied to this machine; None, with the reason in `result`, when it cannot be."""
        try:
            data = self.run.folder.read(path, MAX_FILE)
            shard = verify_shard(path, data)
        except HybridError as error:
            result.refused.append(error.message)
            result.damaged += [path] if isinstance(error, BadData) else []
            return None
        if not self.run.owns(path, shard):
            result.refused.append(f"{path}: is not a shard of this place, passed over")
            return None
        self._store.write(path, data, heal=True)
        return shard

    def orders(self) -> Orders:
        """The orders for this run, from the folder and from this machine. Raises Temporary."""
        return known_orders((self._store, self.run.folder), self.run.id, [])

    def order(self, body: Mapping[str, Json] | None) -> None:
        """Give an order, and write those into the folder that it lacks.

        Raises Temporary when writing fails: the order is stored here and written by the next successful call.
        """
        if body is not None:
            self._keep("order", body)
        self.write_again()

    def cancel(self) -> None:
        """Ask the workers to stop. An order that was given before is only written again if the folder lost it.

        Raises as `order` does.
        """
        self.order(None if self.orders().cancelled else orders.CANCEL)

    def forget(self) -> None:
        """Ask everybody to hide the run. Raises as `order` does."""
        self.order(None if self.orders().forgotten else orders.FORGET)

    def resume(self) -> None:
        """Revoke every cancel and forget order. Raises as `order` does."""
        known = self.orders()
        self.order(orders.resume(known) if known.cancelled or known.forgotten else None)

    def note(self, text: str) -> None:
        """Replace the notes of the run; "" removes them. Raises as `order` does."""
        known = self.orders()
        self.order(orders.note(text, known) if known.notes != ((text,) if text else ()) else None)

    def sides(self, given: Mapping[str, str]) -> None:
        """Put stages and roles on these sides, and all others on those of the pipeline. Raises as `order` does."""
        known = self.orders()
        self.order(orders.sides(given, known) if known.sides != given else None)

    def retry(self, shards: Collection[str]) -> None:
        """Ask for the failed items of these shards again. Raises as `order` does."""
        named = sorted(shards)
        for first in range(0, len(named), MOST_NAMED):
            self._keep("order", orders.retry(set(named[first : first + MOST_NAMED])))
        self.write_again()

    def write_again(self) -> None:
        """Write this machine's notes that the folder lacks, and replace those that are damaged there. Raises Temporary.

        A note is missing when the folder was away, full or restored from an older copy, or when it was deleted.
        """
        for kind in ("order", "ack"):
            for path, _ in own_notes(self._store, self.run.id, kind, self._name):
                self.run.folder.write(path, self._store.read(path, MAX_FILE), heal=True)

    def _keep(self, kind: str, body: Mapping[str, Json]) -> None:
        """Write a note to this machine's disk, under the next number."""
        latest = next(note_paths(self._store, self.run.id, kind, self._name), "")
        name = NoteName.parse(latest.rpartition("/")[2], kind)
        path, data = pack_note(self.run.id, kind, self._name, name.number + 1 if name else 0, body)
        self._store.write(path, data)


def receiver_of(folder: Path, run: Run) -> Receiver:
    """The receiver of a run on this machine."""
    return Receiver(run, Disk(home.received_of(folder)), home.machine_name())


def own_notes(store: Store, run: str, kind: str, by: str) -> Iterator[tuple[str, Note]]:
    """The valid notes of `by` on a machine's own disk; one that a crash truncated was never sent."""
    return ((path, note) for path, note in read_notes(store, run, kind, refused=[]) if note["by"] == by)


def acknowledged(store: Store, run: str, by: str) -> set[str]:
    """The shards of a run that `by` has acknowledged, by its own notes."""
    return {path for _, note in own_notes(store, run, "ack", by) for path in note["received"]}


def _whole_segment(store: Store, path: str) -> bool:
    try:
        verify_segment(path, store.read(path, MAX_PACKED))
    except (BadData, NotThere):
        return False
    return True


def whole(store: Store, path: str) -> bool:
    """Whether the copy of a shard on this machine is what was received. Raises Temporary."""
    try:
        verify_payload(path, store.read(path, MAX_FILE))
    except (BadData, NotThere):
        return False
    return True

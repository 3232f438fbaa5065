"""The laptop's side of the folder: take over shards, then say so. What was acknowledged is on this machine's own disk.

A shard is verified, copied to this machine's disk and only then named in an ack: its worker frees its spool on that.
Acks and orders are kept here as well, and are written again when the folder has lost or damaged them. A copy here that
is damaged is taken over again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from hybrid.canonical import Json
from hybrid.errors import BadData, HybridError, Temporary
from hybrid.folder import orders
from hybrid.folder.medium import Disk, NotThere, Store
from hybrid.folder.names import NoteName
from hybrid.folder.notes import Note, note_paths, pack_note, read_notes
from hybrid.folder.orders import Orders, known_orders
from hybrid.folder.runs import Run
from hybrid.folder.shards import MAX_FILE, Shard, shard_paths, verify_payload, verify_shard
from hybrid.machine import home

MOST_NAMED = 5000
"""Shards in one ack or order, so that a note keeps far below its bound."""


@dataclass(slots=True)
class Received:
    """What one look brought: how many shards and records are new, and what could not be taken and why.

    `healed` shards were here already, but damaged or deleted. `unsent` is why the folder could not be told of all that
    is here: the same command tries it again.
    """

    shards: int = 0
    records: int = 0
    healed: int = 0
    refused: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # the shards among them, by path
    unsent: Temporary | None = None


class Receiver:
    """Takes over the shards of one run for the reader `name`. `store` is this machine's own disk."""

    def __init__(self, run: Run, store: Store, name: str) -> None:
        self.run, self._store, self._name = run, store, name

    def receive(self, stages: list[str]) -> Received:
        """Take over what is new and acknowledge it. Raises Temporary when the folder is away or this disk is full.

        What was taken before that is kept and acknowledged by the next call.
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
        except Temporary as error:  # what is here is of use all the same
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
        """Give an order, and send those that are kept here and that the folder lacks.

        Raises Temporary when one does not get through: it is then kept here, and goes out with the next call that does.
        """
        if body is not None:
            self._keep("order", body)
        self.write_again()

    def cancel(self) -> None:
        """Ask the workers to stop. What was asked before is not asked twice, but sent again if it got lost; so below.

        Raises as `order` does.
        """
        self.order(None if self.orders().cancelled else orders.CANCEL)

    def forget(self) -> None:
        """Ask everybody to hide the run. Raises as `order` does."""
        self.order(None if self.orders().forgotten else orders.FORGET)

    def resume(self) -> None:
        """Take back every cancel and forget that there is. Raises as `order` does."""
        known = self.orders()
        self.order(orders.resume(known) if known.cancelled or known.forgotten else None)

    def note(self, text: str) -> None:
        """Put a note in the place of those of the run; "" takes them away. Raises as `order` does."""
        known = self.orders()
        self.order(orders.note(text, known) if known.notes != ((text,) if text else ()) else None)

    def retry(self, shards: Collection[str]) -> None:
        """Ask for the failed items of these shards again. Raises as `order` does."""
        named = sorted(shards)
        for first in range(0, len(named), MOST_NAMED):
            self._keep("order", orders.retry(set(named[first : first + MOST_NAMED])))
        self.write_again()

    def write_again(self) -> None:
        """Bring what the folder lacks of this machine's notes there, and heal what it has otherwise. Raises Temporary.

        It was away or full, it was restored from an older copy, or a note was damaged or deleted there.
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
    """Who takes over shards of a run, and gives its orders, on this machine."""
    return Receiver(run, Disk(home.received_of(folder)), home.machine_name())


def own_notes(store: Store, run: str, kind: str, by: str) -> Iterator[tuple[str, Note]]:
    """The notes of `by` on a machine's own disk that are whole; one that a crash cut short was never sent."""
    return ((path, note) for path, note in read_notes(store, run, kind, refused=[]) if note["by"] == by)


def acknowledged(store: Store, run: str, by: str) -> set[str]:
    """The shards of a run that `by` has acknowledged, by its own notes."""
    return {path for _, note in own_notes(store, run, "ack", by) for path in note["received"]}


def whole(store: Store, path: str) -> bool:
    """Whether the copy of a shard on this machine is what was received. Raises Temporary."""
    try:
        verify_payload(path, store.read(path, MAX_FILE))
    except (BadData, NotThere):
        return False
    return True

"""The laptop's side of the folder: take over shards, then say so. What was acknowledged is on this machine's own disk.

A shard is verified, copied to this machine's disk and only then named in an ack: its worker frees its spool on that.
Acks and orders are kept here as well, and are written again when the folder has lost them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from hybrid.canonical import Json
from hybrid.errors import HybridError
from hybrid.folder.medium import Store
from hybrid.folder.names import NoteName
from hybrid.folder.notes import Note, note_paths, pack_note, read_notes, writer_place
from hybrid.folder.orders import Orders
from hybrid.folder.runs import Run
from hybrid.folder.shards import MAX_FILE, shard_paths, verify_shard
from hybrid.folder.spool import walk

MOST_NAMED = 5000
"""Shards in one ack or order, so that a note keeps far below its bound."""


@dataclass(slots=True)
class Received:
    """What one look brought: how many shards and records are new, and what could not be taken and why."""

    shards: int = 0
    records: int = 0
    refused: list[str] = field(default_factory=list)


class Receiver:
    """Takes over the shards of one run for the reader `name`. `store` is this machine's own disk."""

    def __init__(self, run: Run, store: Store, name: str) -> None:
        self.run, self._store, self._name = run, store, name
        here = set(walk(store, run.place))
        self._acked = here.intersection(path for _, note in self._own("ack") for path in note["received"])

    def receive(self, stages: list[str]) -> Received:
        """Take over what is new and acknowledge it. Raises Temporary when the folder is away or this disk is full.

        What was taken before that is kept and acknowledged by the next call.
        """
        result = Received()
        self._write_again()
        fresh = self._fresh(stages, result)
        while some := list(islice(fresh, MOST_NAMED)):
            received = {path: sha256 for path, sha256, _ in some}
            ack = self._keep("ack", {"received": received})
            self._acked.update(received)
            self._send(ack)
            result.shards += len(some)
            result.records += sum(count for _, _, count in some)
        return result

    def _fresh(self, stages: list[str], result: Received) -> Iterator[tuple[str, str, int]]:
        """Path, sha256 of the content and record count of each shard that is now here and not acknowledged."""
        for stage in stages:
            for path in shard_paths(self.run.folder, f"{self.run.place}/{stage}", result.refused):
                if path in self._acked:
                    continue
                try:
                    data = self.run.folder.read(path, MAX_FILE)
                    shard = verify_shard(path, data)
                except HybridError as error:
                    result.refused.append(error.message)
                    continue
                if not self.run.owns(path, shard):
                    result.refused.append(f"{path}: is not a shard of this place, passed over")
                    continue
                self._store.write(path, data, heal=True)
                yield path, shard.sha256, len(shard.records)

    def orders(self) -> Orders:
        """The orders for this run, from the folder and from this machine. Raises Temporary."""
        orders = Orders()
        for medium in (self._store, self.run.folder):
            for path, note in read_notes(medium, self.run.id, "order", known=orders.known, refused=[]):
                orders.add(path, note)
        return orders

    def order(self, body: Mapping[str, Json]) -> None:
        """Write an order. Raises Temporary: it is then kept here, and goes out with the next call that gets through."""
        self._write_again()
        self._send(self._keep("order", body))

    def _keep(self, kind: str, body: Mapping[str, Json]) -> str:
        """Write a note to this machine's disk, under the next number."""
        latest = next(note_paths(self._store, self.run.id, kind, self._name), "")
        name = NoteName.parse(latest.rpartition("/")[2], kind)
        path, data = pack_note(self.run.id, kind, self._name, name.number + 1 if name else 0, body)
        self._store.write(path, data)
        return path

    def _send(self, path: str) -> None:
        self.run.folder.write(path, self._store.read(path, MAX_FILE), heal=True)

    def _own(self, kind: str) -> Iterator[tuple[str, Note]]:
        """This machine's own notes that are whole; one that a crash cut short was never sent."""
        for path, note in read_notes(self._store, self.run.id, kind, refused=[]):
            if note["by"] == self._name:
                yield path, note

    def _write_again(self) -> None:
        """Bring notes that are here and not in the folder there: it was away, or somebody deleted them."""
        for kind in ("ack", "order"):
            place = writer_place(self.run.id, kind, self._name)
            missing = set(walk(self._store, place)) - set(walk(self.run.folder, place))
            for path in sorted(missing.intersection(path for path, _ in self._own(kind))):
                self._send(path)

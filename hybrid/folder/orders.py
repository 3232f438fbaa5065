"""Orders from laptops to the workers of a run: a set that only grows, so orders may arrive in any sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.folder.medium import Medium
from hybrid.folder.names import NoteName
from hybrid.folder.notes import Note, read_notes

MOST_NAMED = 3

CANCEL: Mapping[str, Json] = {"order": "cancel"}
FORGET: Mapping[str, Json] = {"order": "forget"}
MOST_NOTES = 5
LONGEST_NOTE = 200
SIDES = ("gpu", "laptop", "any")


def resume(orders: Orders) -> Mapping[str, Json]:
    """The order that revokes every cancel and forget seen so far."""
    return {"order": "resume", "of": sorted(orders.active_cancels | orders.active_forgets)}


def note(text: str, orders: Orders) -> Mapping[str, Json]:
    """The order that attaches the note `text` to the run and replaces every note seen so far."""
    return {"order": "note", "text": text, "of": sorted(orders.active_notes)}


def sides(given: Mapping[str, str], orders: Orders) -> Mapping[str, Json]:
    """The order that puts stages and roles on sides, by name, and replaces every such order seen so far."""
    return {"order": "sides", "sides": dict(given), "of": sorted(orders.active_sides)}


def retry(shards: set[str]) -> Mapping[str, Json]:
    """The order to retry the failed items of these shards: their failures no longer count as done."""
    return {"order": "retry", "shards": sorted(shards)}


class Orders:
    """The orders seen so far. Its answers depend on the set alone, not on the sequence of arrival."""

    def __init__(self) -> None:
        self.known: set[str] = set()  # paths
        self._cancels: set[str] = set()
        self._forgets: set[str] = set()
        self._notes: dict[str, str] = {}
        self._sides: dict[str, dict[str, Any]] = {}
        self._revoked: set[str] = set()
        self.set_aside: set[str] = set()  # shards whose failed items are to be retried

    def add(self, path: str, note: Note) -> None:
        """Add an order. An unknown kind, from a newer version, has no effect."""
        self.known.add(path)
        kind: Any = note.get("order")
        if kind == "cancel":
            self._cancels.add(path)
        elif kind == "forget":
            self._forgets.add(path)
        elif kind == "note":
            self._notes[path] = str(note.get("text", ""))[:LONGEST_NOTE]
            self._revoked.update(_texts(note.get("of")))
        elif kind == "sides":
            given = note.get("sides")
            self._sides[path] = (
                {str(name): side for name, side in given.items() if side in SIDES} if isinstance(given, dict) else {}
            )
            self._revoked.update(_texts(note.get("of")))
        elif kind == "resume":
            self._revoked.update(_texts(note.get("of")))
        elif kind == "retry":
            self.set_aside.update(_texts(note.get("shards")))

    @property
    def active_cancels(self) -> set[str]:
        """The cancels that no resume has revoked."""
        return self._cancels - self._revoked

    @property
    def active_forgets(self) -> set[str]:
        """The forgets that no resume has revoked."""
        return self._forgets - self._revoked

    @property
    def active_notes(self) -> dict[str, str]:
        """The notes that no later note has replaced, by path."""
        return {path: text for path, text in sorted(self._notes.items()) if path not in self._revoked}

    @property
    def active_sides(self) -> dict[str, dict[str, Any]]:
        """The sides that no later order has replaced, by path."""
        return {path: given for path, given in sorted(self._sides.items()) if path not in self._revoked}

    @property
    def sides(self) -> dict[str, Any]:
        """On which side a stage or a role is, by its name, where it is not on that of the pipeline."""
        return {name: side for given in self.active_sides.values() for name, side in given.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """The texts of the run's notes: more than one when two machines wrote one at the same time."""
        return tuple(dict.fromkeys(filter(None, self.active_notes.values())))[:MOST_NOTES]

    @property
    def forgotten(self) -> bool:
        """Whether the run is hidden from listings by a forget."""
        return bool(self.active_forgets)

    @property
    def cancelled(self) -> bool:
        """Whether work on the run has to stop."""
        return bool(self.active_cancels)

    @property
    def cancelled_by(self) -> str:
        """A message: the active cancels or forgets with their writers, and how to revoke them."""
        names = [_named(path) for path in sorted(self.active_forgets or self.active_cancels)]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        named = " and ".join(names[:MOST_NAMED])
        what = "forgotten" if self.forgotten else "cancelled"
        return f"{what} by {named}{more}; `hybrid run remote` with the same settings takes that back"


def _named(path: str) -> str:
    *_, by, _, name = path.split("/")
    parsed = NoteName.parse(name, "order")
    return f"order {parsed.number if parsed else name} of {by}"


def known_orders(media: Iterable[Medium], run: str, refused: list[str]) -> Orders:
    """The orders for a run in any of `media`. Raises Temporary for listings."""
    known = Orders()
    for medium in media:
        for path, note in read_notes(medium, run, "order", known=known.known, refused=refused):
            known.add(path, note)
    return known


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

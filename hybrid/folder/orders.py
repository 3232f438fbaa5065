"""What a laptop asks of the workers of a run, as a set that only grows: no order has to arrive before another."""

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


def resume(orders: Orders) -> Mapping[str, Json]:
    """The order that takes back every cancel and forget seen so far."""
    return {"order": "resume", "of": sorted(orders.standing_cancels | orders.standing_forgets)}


def note(text: str, orders: Orders) -> Mapping[str, Json]:
    """The order to note `text` of the run, in the place of every note seen so far."""
    return {"order": "note", "text": text, "of": sorted(orders.standing_notes)}


def retry(shards: set[str]) -> Mapping[str, Json]:
    """The order to do the failed items of these shards again: their failures no longer count as done."""
    return {"order": "retry", "shards": sorted(shards)}


class Orders:
    """The orders seen so far. The same set gives the same answers, whatever order it came in."""

    def __init__(self) -> None:
        self.known: set[str] = set()  # paths
        self._cancels: set[str] = set()
        self._forgets: set[str] = set()
        self._notes: dict[str, str] = {}
        self._taken_back: set[str] = set()
        self.set_aside: set[str] = set()  # shards whose failures are to be done again

    def add(self, path: str, note: Note) -> None:
        """Take in an order; one of an unknown kind, of a newer version, asks nothing."""
        self.known.add(path)
        kind: Any = note.get("order")
        if kind == "cancel":
            self._cancels.add(path)
        elif kind == "forget":
            self._forgets.add(path)
        elif kind == "note":
            self._notes[path] = str(note.get("text", ""))[:LONGEST_NOTE]
            self._taken_back.update(_texts(note.get("of")))
        elif kind == "resume":
            self._taken_back.update(_texts(note.get("of")))
        elif kind == "retry":
            self.set_aside.update(_texts(note.get("shards")))

    @property
    def standing_cancels(self) -> set[str]:
        """The cancels that no resume has taken back."""
        return self._cancels - self._taken_back

    @property
    def standing_forgets(self) -> set[str]:
        """The forgets that no resume has taken back."""
        return self._forgets - self._taken_back

    @property
    def standing_notes(self) -> dict[str, str]:
        """The notes in whose place no other stands, by path."""
        return {path: text for path, text in sorted(self._notes.items()) if path not in self._taken_back}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is noted of the run: more than one text when two machines noted something at once."""
        return tuple(dict.fromkeys(filter(None, self.standing_notes.values())))[:MOST_NOTES]

    @property
    def forgotten(self) -> bool:
        """Whether nobody wants to see the run any more."""
        return bool(self.standing_forgets)

    @property
    def cancelled(self) -> bool:
        """Whether work on the run is to stop."""
        return bool(self.standing_cancels)

    @property
    def cancelled_by(self) -> str:
        """In words: which cancels or forgets stand, by number and who gave them, and how they are taken back."""
        said = [_named(path) for path in sorted(self.standing_forgets or self.standing_cancels)]
        more = f" and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        named = " and ".join(said[:MOST_NAMED])
        what = "forgotten" if self.forgotten else "cancelled"
        return f"{what} by {named}{more}; `hybrid run remote` with the same settings takes that back"


def _named(path: str) -> str:
    *_, by, _, name = path.split("/")
    parsed = NoteName.parse(name, "order")
    return f"order {parsed.number if parsed else name} of {by}"


def known_orders(media: Iterable[Medium], run: str, refused: list[str]) -> Orders:
    """The orders for a run that are in any of `media`. Raises Temporary for listings."""
    known = Orders()
    for medium in media:
        for path, note in read_notes(medium, run, "order", known=known.known, refused=refused):
            known.add(path, note)
    return known


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []

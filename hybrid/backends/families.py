"""The order in which slots of an engine take requests: those that begin alike go to one slot, one after another.

A slot keeps what it computed of its last prompt. Spread over all slots, requests that share all messages but the last
would make every slot compute the shared part; given to one slot, they make it once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybrid.records import Message, Request

Family = tuple[Message, ...]


@dataclass(slots=True)
class Families:
    """A look-ahead of at most `most` requests, grouped by all of their messages but the last."""

    source: Iterator[Request]
    most: int
    _waiting: dict[Family, deque[Request]] = field(default_factory=dict)
    _slots: dict[int, Family] = field(default_factory=dict)  # slot -> family of its latest request
    _size: int = 0

    def next_for(self, slot: int) -> Request | None:
        """The request that a free slot takes; None at the end.

        It is of the slot's own family, else of one that no slot is at, else of the one with most to do.
        """
        self._look_ahead()
        if not self._waiting:
            return None
        family = self._slots.get(slot, ())
        if family not in self._waiting:
            others = {taken for other, taken in self._slots.items() if other != slot}
            free = [one for one in self._waiting if one not in others]
            family = free[0] if free else max(self._waiting, key=lambda one: len(self._waiting[one]))
        self._slots[slot] = family
        request = self._waiting[family].popleft()
        self._size -= 1
        if not self._waiting[family]:
            del self._waiting[family]
        return request

    def _look_ahead(self) -> None:
        while self._size < self.most and (request := next(self.source, None)) is not None:
            self._waiting.setdefault(request.messages[:-1], deque()).append(request)
            self._size += 1

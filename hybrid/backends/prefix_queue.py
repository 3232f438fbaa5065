"""The order in which the slots of an engine take requests: requests with the same prefix go to the same slot.

A slot caches the keys and values of its last prompt. When requests that share all messages but the last go to one slot,
the shared prefix is computed once; spread over all slots, it would be computed in each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybrid.records import Message, Request

Prefix = tuple[Message, ...]


@dataclass(slots=True)
class PrefixQueue:
    """At most `look_ahead` requests read from `source`, grouped by all of their messages but the last."""

    source: Iterator[Request | None]
    look_ahead: int
    _waiting: dict[Prefix, deque[Request]] = field(default_factory=dict)
    _slots: dict[int, Prefix] = field(default_factory=dict)  # slot -> the prefix of its latest request
    _size: int = 0

    def next_for(self, slot: int) -> Request | None:
        """The request that a free slot takes; None at the end, and while there is nothing to ask.

        It has the slot's own prefix, else one that no other slot has, else the one with the most waiting requests.
        """
        self._look_ahead()
        if not self._waiting:
            return None
        prefix = self._slots.get(slot, ())
        if prefix not in self._waiting:
            taken = {one for other, one in self._slots.items() if other != slot}
            free = [one for one in self._waiting if one not in taken]
            prefix = free[0] if free else max(self._waiting, key=lambda one: len(self._waiting[one]))
        self._slots[slot] = prefix
        request = self._waiting[prefix].popleft()
        self._size -= 1
        if not self._waiting[prefix]:
            del self._waiting[prefix]
        return request

    def _look_ahead(self) -> None:
        while self._size < self.look_ahead and (request := next(self.source, None)) is not None:
            self._waiting.setdefault(request.messages[:-1], deque()).append(request)
            self._size += 1

"""Segments in memory, as loops publish them: what has arrived at whom can be held back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

from hybrid.loops import Publications, Segment


class Folder:
    """What was published. `late(segment)`: whether it has not arrived yet."""

    def __init__(self, late: Callable[[Segment], bool] = lambda segment: False) -> None:
        self.segments: dict[tuple[int, str, str], Segment] = {}
        self.late = late

    def reader(self) -> Publications:
        """What one loop is given."""
        return Reader(self)

    def put(self, name: str, number: int, data: bytes) -> str:
        made = Segment(name, number, data, hashlib.sha256(data).hexdigest())
        self.segments[number, name, made.id] = made
        return made.id


class Reader:
    """`hybrid.loops.Publications`."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.seen = folder, set[str]()

    def publish(self, name: str, number: int, data: bytes) -> str:
        return self.folder.put(name, number, data)

    def arrived(self, since: int = 0, names: Collection[str] | None = None) -> list[Segment]:
        found = [one for _, one in sorted(self.folder.segments.items()) if one.number >= since]
        found = [one for one in found if names is None or one.name in names]
        new = [one for one in found if one.id not in self.seen and not self.folder.late(one)]
        self.seen |= {one.id for one in new}
        return new

    def read(self, name: str, number: int) -> list[Segment]:
        found = (one for _, one in sorted(self.folder.segments.items()) if (one.name, one.number) == (name, number))
        return [one for one in found if not self.folder.late(one)]

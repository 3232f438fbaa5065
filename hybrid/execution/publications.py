"""What the loops of a stage publish: segments of the run, written on this machine and read wherever they arrive."""

from __future__ import annotations

from collections.abc import Collection

from hybrid.folder.segment_shelf import SegmentShelf
from hybrid.loops import Segment

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of the segments that one call returns; the others come with the next."""


class StagePublications:
    """A `hybrid.loops.Publications`, for one loop. The `shelf` is that of all loops of the stage on this machine."""

    def __init__(self, shelf: SegmentShelf) -> None:
        self._shelf = shelf
        self._since = self._front = 0
        self._seen: dict[str, tuple[str, int, str]] = {}  # path -> what was returned: name, number, id

    def publish(self, name: str, number: int, data: bytes) -> str:
        """`hybrid.loops.Publications`."""
        self._front = max(self._front, number)
        return self._shelf.put(name, number, data).id

    def arrived(self, since: int = 0, names: Collection[str] | None = None) -> list[Segment]:
        """`hybrid.loops.Publications`."""
        if since > self._since:
            self._since = since
            self._seen = {path: one for path, one in self._seen.items() if one[1] >= since}
        self._shelf.look(self._since, max(self._front, self._since))
        fresh = [path for path, one in self._shelf.names() if self._is_fresh(path, one.name, one.number, names)]
        known, found, size = set(self._seen.values()), list[Segment](), 0
        for path, segment in self._shelf.read(fresh):
            self._seen[path] = what = segment.name, segment.number, segment.id
            if what not in known:
                known.add(what)
                found.append(segment)
                size += len(segment.data)
            if size > MOST_BYTES:
                break
        return sorted(found, key=lambda one: (one.number, one.name, one.id))

    def _is_fresh(self, path: str, name: str, number: int, names: Collection[str] | None) -> bool:
        return number >= self._since and path not in self._seen and (names is None or name in names)

    def read(self, name: str, number: int) -> list[Segment]:
        """`hybrid.loops.Publications`."""
        self._shelf.look_once(number)
        paths = [path for path, one in self._shelf.names() if (one.name, one.number) == (name, number)]
        found = {segment.id: segment for _, segment in self._shelf.read(paths)}
        return [found[id] for id in sorted(found)]

"""The local disk of a machine: survives its processes, and is gone with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid.errors import BadData, Temporary
from hybrid.folder.medium import Entry, NotThere

if TYPE_CHECKING:
    from tests.simulator.actor import Process


def inside(path: str) -> str:
    """`path` if it stays inside its root. Raises BadData."""
    if path.startswith("/") or ".." in path.split("/") or "\\" in path or "\0" in path:
        raise BadData(f"{path!r:.200}: not a path inside a folder")
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def prefix(data: bytes, share: float) -> bytes:
    """What is there of a file of which a share was written."""
    return data[: int(share * (len(data) + 1))]


class Files:
    """Path -> content, behaving as a real directory does."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def entries(self, place: str) -> list[Entry]:
        place = inside(place)
        if place in self.held:
            raise BadData(f"{place}: Not a directory")
        start = f"{place}/" if place else ""
        found: dict[str, Entry] = {}
        for path in self.held:
            if path.startswith(start):
                name, more, _ = path[len(start) :].partition("/")
                found[name] = Entry(name, "folder" if more else "file")
        return list(found.values())

    def read(self, path: str, limit: int) -> bytes:
        path = inside(path)
        if path not in self.held:
            if self.entries(path):
                raise BadData(f"{path}: not a regular file")
            raise NotThere(f"{path}: no such file, or not yet")
        if len(self.held[path]) > limit:
            raise BadData(f"{path}: larger than the {limit:,} bytes allowed")
        return self.held[path]

    def write(self, path: str, data: bytes, share: float = 1.0, *, heal: bool = False) -> None:
        """As Medium.write, up to a share of the bytes."""
        path = inside(path)
        above = [path[:end] for end, letter in enumerate(path) if letter == "/"]
        if any(one in self.held for one in above) or (path not in self.held and self.entries(path)):
            raise BadData(f"{path}: Not a directory, or one")
        present = self.held.get(path)
        if present == data:
            return
        if present is not None and not (heal or data.startswith(present)):
            raise BadData(f"{path}: holds other content")
        self.held[path] = prefix(data, share)

    def remove(self, path: str) -> None:
        self.held.pop(inside(path), None)


class LocalDisk:
    """The Store of one process on a machine."""

    def __init__(self, process: Process) -> None:
        self._process, self._actor = process, process.actor

    def __str__(self) -> str:
        return f"{self._actor.name}'s disk"

    def entries(self, place: str) -> list[Entry]:
        return self._process.call("disk entries", place, lambda _: self._shuffled(place))

    def _shuffled(self, place: str) -> list[Entry]:
        return self._actor.world.shuffled(self._actor.files.entries(place))

    def read(self, path: str, limit: int) -> bytes:
        return self._process.call("disk read", path, lambda _: self._actor.files.read(path, limit))

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        def act(share: float) -> None:
            self._actor.needs_room(path)
            self._actor.files.write(path, data, share, heal=heal)

        self._process.call("disk write", path, act)

    def remove(self, path: str) -> None:
        self._process.call("disk remove", path, lambda _: self._actor.files.remove(path))


def no_room(path: str) -> Temporary:
    return Temporary(f"no room left for {path} while writing it")

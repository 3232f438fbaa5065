"""The one door to a folder: three calls that may each fail, lag or lie. A real directory is one of those behind it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

from hybrid.errors import BadData, HybridError
from hybrid.machine.files import NotThere, read_bounded, speaking_inside, write_once

__all__ = ["Disk", "Entry", "Medium", "NotThere", "ReadsSeveral", "Store", "attempt", "read_each"]

AT_ONCE = 64
"""Files that are asked for together."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a place. A link is `other` and never followed."""

    name: str
    kind: Literal["file", "folder", "other"]


class Medium(Protocol):
    """A folder as the protocol sees it. Paths are relative, with `/`. No call tells or asks for a time."""

    def entries(self, place: str) -> list[Entry]:
        """What is directly in a place, in no order; nothing when it is not there. Raises Temporary, CannotRun."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises NotThere, BadData, Temporary, CannotRun."""
        ...

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        """Write a new file whole, with the places above it; the same bytes change nothing, a torn file is finished.

        Raises BadData when something else is there, unless `heal`: under a name that is made of the content's own
        hash that is damage, and written over. Raises Temporary (full, quota, away, hanging), CannotRun.
        """
        ...


@runtime_checkable
class ReadsSeveral(Protocol):
    """A medium to which a call costs more than a small file."""

    def read_several(self, paths: Sequence[str], limit: int) -> list[bytes | HybridError]:
        """What `read` gives or raises for the first of `paths`, at least one: as many as are quick to read."""
        ...


def read_each(medium: Medium, paths: Sequence[str], limit: int) -> Iterator[tuple[str, bytes | HybridError]]:
    """Each path with what `read` gives or raises for it, in order."""
    at = 0
    while at < len(paths):
        some = paths[at : at + AT_ONCE]
        found = (
            medium.read_several(some, limit) if isinstance(medium, ReadsSeveral) else [attempt(medium, some[0], limit)]
        )
        yield from zip(some, found, strict=False)
        at += len(found)


def attempt(medium: Medium, path: str, limit: int) -> bytes | HybridError:
    """What `read` gives or raises."""
    try:
        return medium.read(path, limit)
    except HybridError as error:
        return error


class Store(Medium, Protocol):
    """A folder on a disk of this machine: what `write` returned from survives a crash of the process."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is no error."""
        ...


class Disk:
    """A real directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def entries(self, place: str) -> list[Entry]:
        path = self._inside(place)
        if path != self.root and path.is_symlink():
            raise BadData(f"{path}: a link, which is not followed")
        with speaking_inside(path, doing="listing it"):
            try:
                with os.scandir(path) as found:
                    return [Entry(entry.name, _kind(entry)) for entry in found]
            except FileNotFoundError:
                return []

    def read(self, path: str, limit: int) -> bytes:
        return read_bounded(self._inside(path), limit)

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        write_once(self._inside(path), data, heal=heal)

    def remove(self, path: str) -> None:
        place = self._inside(path)
        with speaking_inside(place, doing="removing it"), suppress(FileNotFoundError):
            place.unlink()

    def mark(self, path: str) -> int:
        """A number that is another one when the file was written anew or cut short; 0 when there is none."""
        place = self._inside(path)
        with speaking_inside(place, doing="looking at it"), suppress(FileNotFoundError):
            found = place.lstat()
            return 1 + zlib.crc32(f"{found.st_size} {found.st_mtime_ns} {found.st_ino}".encode())
        return 0

    def _inside(self, path: str) -> Path:
        """Where `path` is. Raises BadData when it leads out of the root, by its parts or through a link."""
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise BadData(f"{path!r:.200}: not a path inside a folder")
        place = str(self.root)  # texts: this is done for every file, and paths are slow
        for part in parts[:-1]:
            place = os.path.join(place, part)  # noqa: PTH118
            if os.path.islink(place):  # noqa: PTH114
                raise BadData(f"{place}: a link, which is not followed")
        return self.root.joinpath(*parts)


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "other"]:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"

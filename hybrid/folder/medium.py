"""The interface to a folder: three calls, each of which may fail, lag or return stale data; and a real directory."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, runtime_checkable

from hybrid.errors import BadData, HybridError
from hybrid.machine.files import NotThere, explain_internal_errors, read_bounded, write_once

__all__ = ["Disk", "Entry", "Medium", "NotThere", "ReadsSeveral", "Removes", "Store", "read_each", "read_or_error"]

AT_ONCE = 64
"""Most files of one request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a place. A link is `other` and never followed."""

    name: str
    kind: Literal["file", "folder", "other"]


class Medium(Protocol):
    """A folder as the protocol sees it. Paths are relative, with `/`. No call uses time stamps of files."""

    def entries(self, place: str) -> list[Entry]:
        """The entries of a place, in no order; none when it does not exist. Raises Temporary, CannotRun."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises NotThere, BadData, Temporary, CannotRun."""
        ...

    def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
        """Write a new file whole and create the places above it. Writing the same bytes again changes nothing; a file
        that holds only a beginning of them is completed.

        Raises BadData when other content is there, unless `heal`: under a name made of the content's own hash, other
        content is damage and is overwritten. Raises Temporary (disk full, quota, mount away or hanging), CannotRun.
        """
        ...


@runtime_checkable
class ReadsSeveral(Protocol):
    """A medium for which the cost of a call exceeds that of reading a small file."""

    def read_several(self, paths: Sequence[str], limit: int) -> list[bytes | HybridError]:
        """The content, or the error of `read`, of the first of `paths`: at least one, as many as are quick to read."""
        ...


@runtime_checkable
class Removes(Protocol):
    """A medium whose files can be removed. Only what its own writer has replaced is."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is no error. Raises Temporary, CannotRun, BadData."""
        ...


def read_each(medium: Medium, paths: Sequence[str], limit: int) -> Iterator[tuple[str, bytes | HybridError]]:
    """Each path with its content or the error of `read`, in order."""
    at = 0
    while at < len(paths):
        some = paths[at : at + AT_ONCE]
        found = (
            medium.read_several(some, limit)
            if isinstance(medium, ReadsSeveral)
            else [read_or_error(medium, some[0], limit)]
        )
        yield from zip(some, found, strict=False)
        at += len(found)


def read_or_error(medium: Medium, path: str, limit: int) -> bytes | HybridError:
    """The content of a file, or the error that `read` raises."""
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
        with explain_internal_errors(path, doing="listing it"):
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
        with explain_internal_errors(place, doing="removing it"), suppress(FileNotFoundError):
            place.unlink()

    def fingerprint(self, path: str) -> int:
        """A number that changes when the file is rewritten or cut short (size, mtime, inode); 0 without a file."""
        place = self._inside(path)
        with explain_internal_errors(place, doing="looking at it"), suppress(FileNotFoundError):
            found = place.lstat()
            return 1 + zlib.crc32(f"{found.st_size} {found.st_mtime_ns} {found.st_ino}".encode())
        return 0

    def _inside(self, path: str) -> Path:
        """The absolute path of `path`. Raises BadData when it leads out of the root, by its parts or through a link."""
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise BadData(f"{path!r:.200}: not a path inside a folder")
        place = str(self.root)  # strings, since this runs for every file and pathlib is slow
        for part in parts[:-1]:
            place = os.path.join(place, part)  # noqa: PTH118
            if os.path.islink(place):  # noqa: PTH114
                raise BadData(f"{place}: a link, which is not followed")
        return self.root.joinpath(*parts)


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "other"]:
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"

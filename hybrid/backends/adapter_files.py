"""Adapters as folders in memory, for an engine that reads files; on the disk when memory has no room for more.

What a killed process left there is removed by the next one: a living one holds a lock on its place.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hybrid.errors import Temporary
from hybrid.training.adapters import Weights, write_folder

MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)
PREFIX = "hybrid-adapters-"
LOCK = "lock"
LEFT_FREE = 64 * 1024**2
"""Bytes that others may need of the memory for files."""
YOUNG = 60.0
"""Seconds that a place may be without its lock: it is being made."""


class AdapterFiles:
    """The adapters that an engine may be asked for now, by digest."""

    def __init__(self) -> None:
        self._places: dict[Path, tuple[Path, FileLock]] = {}  # where it is -> our own folder, its lock
        self._folders: dict[str, Path] = {}
        for root in _roots():
            remove_left_over(root)

    def put(self, digest: str, weights: Weights, data: bytes) -> Path:
        """The folder of an adapter, written if it is not there. Raises Temporary when there is no room."""
        if digest not in self._folders:
            folder = self._place(len(data)) / digest
            try:
                write_folder(folder, weights, data)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise Temporary(
                    f"cannot write an adapter to {folder.parent}: {error.strerror or error}",
                    hint="free room there; --backend-option group=N holds fewer at a time",
                ) from error
            self._folders[digest] = folder
        return self._folders[digest]

    def forget(self, digests: Collection[str]) -> None:
        """Remove adapters that nobody will ask for."""
        for digest in digests:
            if folder := self._folders.pop(digest, None):
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove everything."""
        for place, lock in self._places.values():
            lock.release()
            shutil.rmtree(place, ignore_errors=True)
        self._places, self._folders = {}, {}

    def _place(self, size: int) -> Path:
        """Our own folder in memory, or on the disk when memory has no room for so many bytes more."""
        roots = _roots()
        root = next((one for one in roots if shutil.disk_usage(one).free > size + LEFT_FREE), roots[-1])
        if root not in self._places:
            place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            lock = FileLock(place / LOCK)
            lock.acquire(timeout=0)
            self._places[root] = place, lock
        return self._places[root][0]


def remove_left_over(root: Path) -> None:
    """Remove the places of processes that are no more."""
    for place in root.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, or removed meanwhile; or held
            if not place.is_symlink() and time.time() - place.stat().st_mtime > YOUNG:
                with FileLock(place / LOCK).acquire(timeout=0):
                    shutil.rmtree(place, ignore_errors=True)


def _roots() -> list[Path]:
    """Where files may lie, the best first."""
    return [root for root in (MEMORY, Path(tempfile.gettempdir())) if root.is_dir()]

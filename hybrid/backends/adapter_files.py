"""Adapters as folders in shared memory, for an engine that reads files; on disk when shared memory is full.

A process locks its folder for as long as it lives. The next process removes folders whose lock is free: their process
was killed.
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
from hybrid.training.adapters import LoraWeights, write_folder

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)
PREFIX = "hybrid-adapters-"
LOCK = "lock"
RESERVED_BYTES = 64 * 1024**2
"""Bytes of shared memory that are left to other programs."""
LOCK_GRACE_SECONDS = 60.0
"""Seconds that a new folder may exist before its process has locked it."""


class AdapterFiles:
    """The adapters that requests in flight may use, by digest. `advice`: what needs less space, for errors."""

    def __init__(self, advice: str = "--backend-option group=N holds fewer at a time") -> None:
        self._advice = advice
        self._places: dict[Path, tuple[Path, FileLock]] = {}  # root -> this process's folder in it, its lock
        self._folders: dict[str, Path] = {}
        for root in _roots():
            remove_left_over(root)

    def put(self, digest: str, weights: LoraWeights, data: bytes) -> Path:
        """The folder of an adapter, written if it is missing. Raises Temporary when there is no space."""
        if digest not in self._folders:
            folder = self._place(len(data)) / digest
            try:
                write_folder(folder, weights, data)
            except OSError as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise Temporary(
                    f"cannot write an adapter to {folder.parent}: {error.strerror or error}",
                    hint=f"free room there; {self._advice}",
                ) from error
            self._folders[digest] = folder
        return self._folders[digest]

    def forget(self, digests: Collection[str]) -> None:
        """Remove adapters that no request will use again."""
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
        """This process's folder in shared memory, or on disk when shared memory has no space for `size` more bytes."""
        roots = _roots()
        root = next((one for one in roots if shutil.disk_usage(one).free > size + RESERVED_BYTES), roots[-1])
        if root not in self._places:
            place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            lock = FileLock(place / LOCK)
            lock.acquire(timeout=0)
            self._places[root] = place, lock
        return self._places[root][0]


def remove_left_over(root: Path) -> None:
    """Remove the folders of processes that have ended."""
    for place in root.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):  # another user's, removed meanwhile, or locked
            if not place.is_symlink() and time.time() - place.stat().st_mtime > LOCK_GRACE_SECONDS:
                with FileLock(place / LOCK).acquire(timeout=0):
                    shutil.rmtree(place, ignore_errors=True)


def _roots() -> list[Path]:
    """Where adapter folders may be made, the best place first."""
    return [root for root in (SHARED_MEMORY, Path(tempfile.gettempdir())) if root.is_dir()]

"""Advisory locks between processes of this machine. They avoid duplicate work; correctness does not depend on them.

The operating system frees the lock of a killed process. Lock files are in the user's cache, never in a shared folder,
where they would not exclude other machines.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from hybrid.errors import Temporary
from hybrid.machine.home import cache_folder

LOG = logging.getLogger("hybrid")
PROBE_SECONDS = 0.3
"""For so long a lock may be held by a process that only looks whether another one holds it."""


@contextmanager
def exclusive_lock(place: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a path. Raises Temporary, whose message contains `doing`, when another process holds it."""
    path = _lock_of(place)
    lock = filelock.FileLock(path, timeout=PROBE_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise Temporary(
            f"another process on this machine {doing}",
            hint="wait until it ends, then run the same command again: what it did is kept",
        ) from error
    except OSError as error:
        LOG.warning("working without a lock: %s: %s", path.parent, error.strerror or error)
    try:
        yield
    finally:
        lock.release()


def is_locked(place: Path) -> bool:
    """Whether another process of this machine holds the lock of a path now; False where that cannot be known."""
    path = _lock_of(place)
    if not path.is_file():
        return False
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _lock_of(place: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()[:32]
    return cache_folder() / "locks" / f"{name}.lock"

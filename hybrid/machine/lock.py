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


@contextmanager
def exclusive_lock(place: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a path. Raises Temporary, whose message contains `doing`, when another process holds it."""
    locks = cache_folder() / "locks"
    name = hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()[:32]
    lock = filelock.FileLock(locks / f"{name}.lock", timeout=0)
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise Temporary(
            f"another process on this machine {doing}",
            hint="wait until it ends, then run the same command again: what it did is kept",
        ) from error
    except OSError as error:
        LOG.warning("working without a lock: %s: %s", locks, error.strerror or error)
    try:
        yield
    finally:
        lock.release()

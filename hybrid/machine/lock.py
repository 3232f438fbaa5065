"""One process of this machine at a time at a place. It saves double work; correctness does not need it.

A kill frees the lock. Locks are in the user's cache, never in a shared folder, where they would exclude nobody.
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
def alone(place: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a place. Raises Temporary, with the words `doing`, when another process has it."""
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

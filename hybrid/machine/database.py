"""Caches of this machine as SQLite databases, which several processes may use at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hybrid.errors import Temporary
from hybrid.machine.files import speaking

WAIT_S = 60.0
"""Seconds to wait for another process that writes."""

PRAGMAS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
"""Readers do not wait for the writer; a power cut loses the last writes at most, and damages nothing."""


@contextmanager
def open_cache(path: Path, schema: str, keeps: str) -> Iterator[sqlite3.Connection]:
    """The database at `path`, made when it is not there; every statement is committed at once.

    `keeps` says for the error what is kept in it. Raises Temporary when the database cannot be used, CannotRun when
    nobody may write there.
    """
    with speaking(path.parent, doing="making it"):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as rows:
            rows.executescript(f"{PRAGMAS}\n{schema}")
            yield rows
    except sqlite3.Error as error:
        raise Temporary(
            f"cannot keep {keeps} in {path}: {error}",
            hint="is the disk full, or is another program using it? if the file is damaged, move it away",
        ) from error

"""Caches of this machine as SQLite databases that several processes may use at the same time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hybrid.errors import Temporary
from hybrid.machine.files import explain_errors

WAIT_S = 60.0
"""Seconds to wait while another process writes."""

PRAGMAS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
"""Readers do not wait for the writer. A power cut can lose the last writes, but damages nothing."""


@contextmanager
def open_cache(path: Path, schema: str, keeps: str) -> Iterator[sqlite3.Connection]:
    """Open the database at `path`, creating it if necessary; every statement is committed at once.

    `keeps` names its content in errors. Raises Temporary when the database cannot be used, CannotRun without permission
    to write there.
    """
    with explain_errors(path.parent, doing="making it"):
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

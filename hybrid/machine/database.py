"""SQLite databases on this machine's own disk: lasting ones that processes share, and temporary ones."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hybrid.errors import Temporary
from hybrid.machine.files import explain_errors

WAIT_S = 60.0
"""Seconds to wait while another process writes."""
PAUSE_S = 0.01
"""Seconds between two tries to open a database that another process makes just now."""

SHARED = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
"""Readers do not wait for the writer. A power cut can lose the last writes, but damages nothing."""

TEMPORARY = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
"""Nobody reads a temporary database after a crash, so nothing is done to survive one."""


def connect_shared(path: Path | None, *, wait_s: float = WAIT_S, threads: bool = False) -> sqlite3.Connection:
    """The database at `path`, created if necessary, for several processes at the same time; None gives a temporary one.

    Every statement is committed at once, unless the caller begins a transaction. With `threads` several threads may use
    it, one at a time. Raises sqlite3.Error.
    """
    rows = sqlite3.connect(path or "", timeout=wait_s, isolation_level=None, check_same_thread=not threads)
    try:
        _share(rows, time.monotonic() + wait_s)
    except BaseException:
        rows.close()
        raise
    return rows


def _share(rows: sqlite3.Connection, until: float) -> None:
    """Make it one for several processes. SQLite does not wait here for another process that does the same just now."""
    while True:
        try:
            rows.executescript(SHARED)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
            time.sleep(PAUSE_S)
        else:
            return


def is_busy(error: Exception) -> bool:
    """Whether there is nothing wrong with the database but that another process writes to it just now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def connect_temporary(schema: str) -> sqlite3.Connection:
    """A temporary database with the tables of `schema`; it spills to disk as it grows and is gone when it is closed.

    It may be handed from thread to thread, for one to use at a time. Raises Temporary when it cannot be made.
    """
    rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    try:
        rows.executescript(f"{TEMPORARY}\n{schema}")
        rows.execute("BEGIN")  # never committed: without a transaction, every row would be written by itself
    except sqlite3.Error as error:
        rows.close()
        raise no_room(error) from error
    return rows


def no_room(error: sqlite3.Error) -> Temporary:
    """The error of a temporary database that cannot be written."""
    return Temporary(
        f"no room for a temporary database: {error}",
        hint="free some space, or set TMPDIR to a folder with room; nothing is lost",
    )


@contextmanager
def open_cache(path: Path, schema: str, keeps: str) -> Iterator[sqlite3.Connection]:
    """Open the database at `path`, creating it if necessary; every statement is committed at once.

    `keeps` names its content in errors. Raises Temporary when the database cannot be used, CannotRun without permission
    to write there.
    """
    with explain_errors(path.parent, doing="making it"):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(connect_shared(path)) as rows:
            rows.executescript(schema)
            yield rows
    except sqlite3.Error as error:
        raise Temporary(
            f"cannot keep {keeps} in {path}: {error}",
            hint="is the disk full, or is another program using it? if the file is damaged, move it away",
        ) from error

"""The workers of one machine share their claims at once, through a database on its own disk; heartbeats take longer.

A claim lasts as long as its worker, also when its items are answered: their records are in an open shard, which nobody
else can read yet. What a worker gave back, or left when it ended, is numbered and stays taken for everybody who has not
read the records since, also for whoever never saw that it was claimed: its answer may be there by now.
All of this only saves work. Without the database, workers share the heartbeats in the folder.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hybrid.execution.claims import SiblingClaims
from hybrid.folder.leases import LeaseTimeouts
from hybrid.folder.names import allowed
from hybrid.machine.clock import Clock
from hybrid.machine.database import connect_shared, is_busy

LOG = logging.getLogger("hybrid")
SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (attempt TEXT PRIMARY KEY, place TEXT, beat INTEGER, closed INTEGER);
CREATE TABLE IF NOT EXISTS claims
    (place TEXT, block INTEGER, attempt TEXT, returned INTEGER, PRIMARY KEY (place, block)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS looks
    (place TEXT, attempt TEXT, number INTEGER, PRIMARY KEY (place, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS returns (id INTEGER PRIMARY KEY, number INTEGER);
INSERT OR IGNORE INTO returns VALUES (0, 0);
"""
"""`returned` is the number of the return of a claim; a row of `looks` says up to which number an attempt knows all."""
CHECKS = (
    "SELECT attempt, place, beat, closed FROM attempts LIMIT 1",
    "SELECT place, block, attempt, returned FROM claims LIMIT 1",
    "SELECT place, attempt, number FROM looks LIMIT 1",
    "SELECT id, number FROM returns LIMIT 1",
)
"""What another schema does not understand."""
TAKE = """
INSERT INTO claims VALUES (?, ?, ?, NULL)
ON CONFLICT (place, block) DO UPDATE SET attempt = excluded.attempt, returned = NULL
WHERE claims.returned <= ? OR (claims.returned IS NOT NULL AND claims.attempt = excluded.attempt)
"""
"""Claim a block that nobody claims, whose last return is known here or was this attempt's own."""
RETURN = "UPDATE claims SET returned = (SELECT number FROM returns) WHERE attempt = ? AND returned IS NULL"
RETURN_STAGE = RETURN + " AND place = ?"
RETURN_BLOCK = RETURN_STAGE + " AND block = ?"
FORGET = """
DELETE FROM claims WHERE place = ? AND (
    returned <= (SELECT min(number) FROM looks WHERE looks.place = claims.place)
    OR returned > coalesce((SELECT number FROM returns), 0)
)
"""
"""Delete the returns that all who work on a stage know of, and those that cannot be."""
WAIT_S = 5.0
"""Seconds to wait for the database, while the model may wait."""
BEAT_S = 5.0
"""Seconds between two signs of life in the database."""
SLOW_S = 30.0
"""Seconds without a sign of life that are respected whatever the heartbeats in the folder are: the process runs, and a
busy system lets it wait.
"""
LOOK_S = 1.0
"""Seconds between two looks whether the process of an attempt has ended."""
MOST_ROWS = 100_000


class Siblings:
    """The workers of this machine that work on one folder. `ended` says whether the process of an attempt has ended.

    Attempts that have ended are added to `gone`. Every method may be called from any thread; none raises.
    """

    def __init__(
        self,
        path: Path,
        attempt: str,
        clock: Clock,
        ended: Callable[[str], bool],
        timeouts: LeaseTimeouts | None = None,
        gone: set[str] | None = None,
    ) -> None:
        self.attempt, self._clock, self._ended = attempt, clock, ended
        self._timeouts, self._gone = timeouts or LeaseTimeouts(), set() if gone is None else gone
        self._turn = threading.RLock()
        self._beat_at = clock.now()
        self._beats: dict[str, tuple[object, float]] = {}  # attempt -> its beat, and when it was first seen here
        self._looked: dict[str, float] = {}  # attempt -> when its process was last seen to run
        self._rows: sqlite3.Connection | None = None
        try:
            self._rows = _opened(path)
        except (OSError, sqlite3.Error) as error:
            LOG.warning("workers on this machine share claims only through the folder: %s: %s", path, error)
        self.do("INSERT OR REPLACE INTO attempts VALUES (?, '', 0, 0)", attempt)

    def do(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a statement gives; none when the database cannot be used, now and from then on."""
        with self._turn:
            if self._rows is None:
                return []
            try:
                return self._rows.execute(statement, values).fetchmany(MOST_ROWS)
            except sqlite3.OperationalError as error:
                LOG.info("the claims of this machine's workers are not at hand now: %s", error)
            except (sqlite3.Error, OverflowError) as error:
                LOG.warning("workers on this machine share claims only through the folder: %s", error)
                self._close()
            return []

    def _close(self) -> None:
        if self._rows is not None:
            with suppress(sqlite3.Error):
                self._rows.close()
            self._rows = None

    def close(self) -> None:
        """Give everything back: this attempt ends, and its shards are closed."""
        self.forget(self.attempt)
        with self._turn:
            self._close()

    def forget(self, attempt: str) -> None:
        """Return what an attempt claims, and delete what else the database says of it."""
        self.count_return()
        self.do(RETURN, attempt)
        self.do("DELETE FROM looks WHERE attempt = ?", attempt)
        self.do("DELETE FROM attempts WHERE attempt = ?", attempt)
        self.do("DELETE FROM claims WHERE NOT EXISTS (SELECT 1 FROM attempts)")  # whoever comes reads the records first

    def count_return(self) -> None:
        """Begin a new number for what is returned now. Its records are where others read them."""
        self.do("UPDATE returns SET number = number + 1")

    def returns(self) -> int:
        """The number of the latest return."""
        found = self.do("SELECT number FROM returns")
        return found[0][0] if found and isinstance(found[0][0], int) else 0

    def beat(self) -> None:
        """Give a sign of life, when it is due."""
        with self._turn:
            if self._clock.now() - self._beat_at < BEAT_S:
                return
            self._beat_at = self._clock.now()
        self.do("UPDATE attempts SET beat = beat + 1 WHERE attempt = ?", self.attempt)

    def works_on(self, place: str) -> None:
        """Say at which stage this attempt works from now on."""
        self.do("UPDATE attempts SET place = ? WHERE attempt = ?", place, self.attempt)

    def closed_shards(self) -> None:
        """Say that this attempt has closed its shards: who waits may find its records now."""
        self.do("UPDATE attempts SET closed = closed + 1 WHERE attempt = ?", self.attempt)

    def news(self) -> frozenset[Any] | None:
        """What changes when another worker of this machine has closed its shards or ended; None when there is none."""
        return frozenset((name, closed) for name, _, closed in self._living()) or None

    def of(self, place: str) -> PlaceClaims:
        """The claims on the stage that `place` names."""
        return PlaceClaims(self, place)

    def at(self, place: str, within: float) -> frozenset[str]:
        """The other attempts that work on a stage and gave a sign of life within so many seconds."""
        return frozenset(name for name, there, _ in self._living() if there == place and self.heard(name, within))

    def living(self) -> set[str]:
        """The other attempts whose processes run, stopped ones too."""
        return {name for name, _, _ in self._living()}

    def silent(self, attempt: str) -> float:
        """Seconds since the last sign of life of an attempt, timed here; infinite for one that is not known."""
        return self._clock.now() - self._beats[attempt][1] if attempt in self._beats else math.inf

    def heard(self, attempt: str, within: float) -> bool:
        """Whether an attempt gave a sign of life within so many seconds, or within those that any may be slow."""
        return self.silent(attempt) < max(within, SLOW_S)

    def may_take_from(self, attempt: str) -> bool:
        """Whether what an attempt claims may be taken: its process has ended, or it has been silent for long."""
        return attempt not in self.living() or not self.heard(attempt, self._timeouts.idle)

    def _living(self) -> list[tuple[str, str, Any]]:
        found = []
        rows = self.do("SELECT attempt, place, beat, closed FROM attempts WHERE attempt != ?", self.attempt)
        for attempt, place, beat, closed in rows:
            if not isinstance(attempt, str) or self._has_ended(attempt):
                self.forget(attempt)
                continue
            if self._beats.get(attempt, (None, 0.0))[0] != beat:
                self._beats[attempt] = beat, self._clock.now()
            found.append((attempt, place, closed))
        return found

    def _has_ended(self, attempt: str) -> bool:
        now = self._clock.now()
        if attempt in self._gone or not allowed(attempt):
            return True
        if now - self._looked.get(attempt, -math.inf) >= LOOK_S:
            if self._ended(attempt):
                self._gone.add(attempt)
                return True
            self._looked[attempt] = now
        return False


class PlaceClaims:
    """The claims on one stage. It is a `Claims`."""

    def __init__(self, siblings: Siblings, place: str) -> None:
        self._siblings, self.place = siblings, place
        self._seen = 0  # the number of the latest return when the records were last read

    def others(self, within: float) -> SiblingClaims:
        siblings = self._siblings
        living = siblings.living()
        rows = siblings.do(
            "SELECT block, attempt, returned FROM claims"
            " WHERE place = ? AND attempt != ? AND (returned IS NULL OR returned > ?)",
            *(self.place, siblings.attempt, self._seen),
        )
        respected = (
            block
            for block, by, returned in rows
            if isinstance(block, int) and (returned is not None or (by in living and siblings.heard(by, within)))
        )
        return SiblingClaims(siblings.at(self.place, within), frozenset(respected))

    def take(self, block: int) -> bool:
        do, own = self._siblings.do, self._siblings.attempt
        do(TAKE, self.place, block, own, self._seen)
        by = self._claimed_by(block)
        if by not in {own, ""} and self._siblings.may_take_from(by):
            what = "UPDATE claims SET attempt = ? WHERE place = ? AND block = ? AND attempt = ? AND returned IS NULL"
            do(what, own, self.place, block, by)
            by = self._claimed_by(block)  # another one may have been faster
        return by == own

    def _claimed_by(self, block: int) -> str:
        """The attempt that claims a block, "" when that was returned; this one where the database cannot be asked."""
        what = "SELECT attempt, returned FROM claims WHERE place = ? AND block = ?"
        found = self._siblings.do(what, self.place, block)
        by, returned = found[0] if found else (self._siblings.attempt, None)
        return str(by) if returned is None else ""

    def release(self, blocks: Collection[int] | None = None) -> None:
        do, where = self._siblings.do, (self._siblings.attempt, self.place)
        self._siblings.count_return()
        if blocks is None:
            do(RETURN_STAGE, *where)
        for block in blocks or ():
            do(RETURN_BLOCK, *where, block)

    @contextmanager
    def looking(self) -> Iterator[None]:
        do, own, seen = self._siblings.do, self._siblings.attempt, self._siblings.returns()
        do("INSERT OR IGNORE INTO looks VALUES (?, ?, ?)", self.place, own, self._seen)  # forgets no return meanwhile
        yield
        self._seen = max(self._seen, seen)
        do("INSERT OR REPLACE INTO looks VALUES (?, ?, ?)", self.place, own, self._seen)
        do(FORGET, self.place)


def _opened(path: Path) -> sqlite3.Connection:
    """The database; one that is damaged, or of another version, is deleted, since it only saves work.

    One that is in use stays: whoever uses it would go on with the deleted one, alone. Raises sqlite3.Error, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for again in (False, True):
        try:
            rows = connect_shared(path, wait_s=WAIT_S, threads=True)
            try:
                rows.executescript(SCHEMA)
                for check in CHECKS:
                    rows.execute(check)
            except sqlite3.Error:
                rows.close()
                raise
        except sqlite3.DatabaseError as error:
            if again or is_busy(error):
                raise
            for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
        else:
            return rows
    raise AssertionError("the second try returns or raises")

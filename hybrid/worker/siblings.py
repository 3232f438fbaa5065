"""The workers of one machine share their claims at once, through a database on its own disk; heartbeats take longer.

A claim lasts as long as its worker, also when its items are answered: their records are in an open shard, which nobody
else can read yet. What a worker gave back, or left when it ended, stays taken until the records were read once more.
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
from hybrid.machine.database import connect_shared

LOG = logging.getLogger("hybrid")
SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (attempt TEXT PRIMARY KEY, place TEXT, beat INTEGER, closed INTEGER);
CREATE TABLE IF NOT EXISTS claims
    (place TEXT, block INTEGER, attempt TEXT, PRIMARY KEY (place, block)) WITHOUT ROWID;
"""
WAIT_S = 2.0
"""Seconds to wait for the database, while the model may wait."""
BEAT_S = 5.0
"""Seconds between two signs of life in the database."""
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
        """Delete what the database says of an attempt."""
        self.do("DELETE FROM claims WHERE attempt = ?", attempt)
        self.do("DELETE FROM attempts WHERE attempt = ?", attempt)

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
        return frozenset(name for name, there, _ in self._living() if there == place and self.silent(name) < within)

    def living(self) -> set[str]:
        """The other attempts whose processes run, stopped ones too."""
        return {name for name, _, _ in self._living()}

    def silent(self, attempt: str) -> float:
        """Seconds since the last sign of life of an attempt, timed here; infinite for one that is not known."""
        return self._clock.now() - self._beats[attempt][1] if attempt in self._beats else math.inf

    def may_take_from(self, attempt: str) -> bool:
        """Whether what an attempt claims may be taken: its process has ended, or it has been silent for long."""
        return attempt not in self.living() or self.silent(attempt) >= self._timeouts.idle

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
        self._turn = threading.Lock()
        self._held: set[int] = set()  # what others held when that was last read
        self._left: set[int] = set()  # what others gave back since the records were last read

    def others(self, within: float) -> SiblingClaims:
        siblings = self._siblings
        with self._turn:
            living = siblings.living()
            rows = siblings.do(
                "SELECT block, attempt FROM claims WHERE place = ? AND attempt != ?", self.place, siblings.attempt
            )
            held = {block: by for block, by in rows if isinstance(block, int) and by in living}
            self._left |= self._held - held.keys()
            self._held = set(held)
            respected = {block for block, by in held.items() if siblings.silent(by) < within}
            return SiblingClaims(siblings.at(self.place, within), frozenset(respected | self._left))

    def take(self, block: int) -> bool:
        do, own = self._siblings.do, self._siblings.attempt
        do("INSERT OR IGNORE INTO claims VALUES (?, ?, ?)", self.place, block, own)
        found = do("SELECT attempt FROM claims WHERE place = ? AND block = ?", self.place, block)
        by = found[0][0] if found else own  # without the database nobody is asked
        if by != own and self._siblings.may_take_from(by):
            what = "UPDATE claims SET attempt = ? WHERE place = ? AND block = ? AND attempt = ?"
            do(what, own, self.place, block, by)
            return True
        return bool(by == own)

    def release(self, blocks: Collection[int] | None = None) -> None:
        do, own = self._siblings.do, self._siblings.attempt
        if blocks is None:
            do("DELETE FROM claims WHERE place = ? AND attempt = ?", self.place, own)
        for block in blocks or ():
            do("DELETE FROM claims WHERE place = ? AND block = ? AND attempt = ?", self.place, block, own)

    @contextmanager
    def looking(self) -> Iterator[None]:
        self.others(math.inf)
        with self._turn:
            left = set(self._left)
        yield
        with self._turn:
            self._left -= left


def _opened(path: Path) -> sqlite3.Connection:
    """The database; one that is damaged is deleted, since it only saves work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for again in (False, True):
        try:
            rows = connect_shared(path, wait_s=WAIT_S, threads=True)
            try:
                rows.executescript(SCHEMA)
                rows.execute("SELECT attempt, place, beat, closed FROM attempts LIMIT 1")
                rows.execute("SELECT place, block, attempt FROM claims LIMIT 1")
            except sqlite3.Error:
                rows.close()
                raise
        except sqlite3.DatabaseError:
            if again:
                raise
            for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                name.unlink(missing_ok=True)
        else:
            return rows
    raise AssertionError("the second try returns or raises")

"""The index of what this machine has verified in a shared folder, so that no shard is read twice.

It is a SQLite database on this machine's own disk, never in the folder. It saves time and nothing depends on it: a
damaged one, or one of another version, is replaced, and while another process holds it, a temporary one is used.
Shards are immutable, so a path that was verified stays verified; a listing of the folder says whether it still exists.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hybrid.canonical import decode, encode
from hybrid.machine.database import connect_shared, is_busy, no_room

LOG = logging.getLogger("hybrid")
T = TypeVar("T")

VERSION = 2
KEY = 16
"""Bytes of an item's key that are stored: enough to tell items apart."""
WAIT = 5.0
"""Seconds to wait while another process writes."""
AT_ONCE = 250_000
"""Keys that are looked up together, so that memory does not grow with the run."""
PARTS = 256
"""Parts of a list of keys: one for each value of a key's first byte."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (path TEXT PRIMARY KEY, model TEXT, sha256 BLOB, received INTEGER, kinds BLOB,
    prompt INTEGER, completion INTEGER, seal INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (path TEXT PRIMARY KEY, keys BLOB, seal INTEGER);
CREATE TABLE IF NOT EXISTS numbers (path TEXT PRIMARY KEY, numbers BLOB, seal INTEGER);
CREATE TABLE IF NOT EXISTS stage (place TEXT PRIMARY KEY, identity TEXT, total INTEGER, seal INTEGER);
CREATE TABLE IF NOT EXISTS item (place TEXT, first INTEGER, keys BLOB, seal INTEGER, PRIMARY KEY (place, first));
CREATE TABLE IF NOT EXISTS beat (run TEXT, attempt TEXT, number INTEGER, seen REAL, seal INTEGER,
    PRIMARY KEY (run, attempt));
"""
# The paths below PLACE are those between 'PLACE/' and 'PLACE0', because '0' is the character after '/'.
SHARDS = "SELECT * FROM shard WHERE path > ? || '/' AND path < ? || '0'"
NUMBERS = "SELECT * FROM numbers WHERE path > ? || '/' AND path < ? || '0' ORDER BY path"
NUMBERED = "SELECT path FROM numbers WHERE path > ? || '/' AND path < ? || '0'"
FORGET = "DELETE FROM numbers WHERE path > ? || '/' AND path < ? || '0'"
PUT_SHARD = "INSERT OR REPLACE INTO shard VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
PUT_KEYS = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?)"
PUT_NUMBERS = "INSERT OR REPLACE INTO numbers VALUES (?, ?, ?)"
PUT_STAGE = "INSERT OR REPLACE INTO stage VALUES (?, ?, ?, ?)"
PUT_ITEM = "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?)"
PUT_BEAT = "INSERT OR REPLACE INTO beat VALUES (?, ?, ?, ?, ?)"


class Damaged(Exception):
    """The database does not hold what was written to it, or cannot be created."""


@dataclass(frozen=True, slots=True)
class Known:
    """A verified shard: its model's digest, the sha256 of its file, the kind of each of its failures.

    `tokens` are the sums of prompt and completion tokens over its records. `received` is the `Disk.fingerprint` of the
    verified copy on this machine's disk, 0 when there was none.
    """

    model: str
    sha256: bytes
    kinds: tuple[str, ...] = ()
    received: int = 0
    tokens: tuple[int, int] = (0, 0)


class Index:
    """The database at `path`, or with None a temporary one. Raises sqlite3.Error and Damaged."""

    def __init__(self, path: Path | None) -> None:
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Damaged(error.strerror or str(error)) from error
        self._rows = connect_shared(path, wait_s=WAIT)
        try:
            self._prepare()
        except BaseException:
            self._rows.close()
            raise

    def _prepare(self) -> None:
        (version,) = self._rows.execute("PRAGMA user_version").fetchone()
        if version not in (0, VERSION):
            raise Damaged(f"it is of version {version}")
        if not version:
            self._rows.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def close(self) -> None:
        self._rows.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the block one transaction: other processes cannot write meanwhile."""
        self._rows.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._rows.in_transaction:
                self._rows.execute("ROLLBACK")
            raise
        self._rows.execute("COMMIT")

    def known(self, place: str) -> dict[str, Known]:
        """The shards below a stage's place that were verified, by path."""
        return {path: _known(*values) for path, *values in self._read(SHARDS, place, place)}

    def add(self, shards: Iterable[tuple[str, Known, bytes]]) -> None:
        """Store verified shards: path, description, and the keys of their items, those of the failures last."""
        with self.alone():
            for path, known, keys in shards:
                self._put(PUT_SHARD, path, *_row(known))
                self._put(PUT_KEYS, path, keys)
                self._rows.execute("DELETE FROM numbers WHERE path = ?", (path,))

    def receive(self, shards: Iterable[tuple[str, Known]]) -> None:
        """Store that verified copies of known shards are on this machine's disk."""
        with self.alone():
            for path, known in shards:
                self._put(PUT_SHARD, path, *_row(known))

    def forget(self, paths: Iterable[str]) -> None:
        """Delete what is stored of these shards: the files at their paths are no longer those that were verified."""
        with self.alone():
            for path in paths:
                for table in ("shard", "keys", "numbers"):
                    self._rows.execute(f"DELETE FROM {table} WHERE path = ?", (path,))  # noqa: S608

    def items(self, place: str) -> tuple[str, int]:
        """The identity that a stage's list of items was made from, and its length; "" and 0 while there is no list."""
        for values in self._read("SELECT * FROM stage WHERE place = ?", place):
            return str(values[1]), int(values[2])
        return "", 0

    def set_items(self, place: str, identity: str, parts: Iterable[bytes]) -> None:
        """Replace a stage's list of items by the keys in `parts` (see `in_parts`). Call it in `alone`."""
        self._rows.execute("DELETE FROM item WHERE place = ?", (place,))
        self._rows.execute(FORGET, (place, place))
        total = 0
        for part in filter(None, parts):
            self._put(PUT_ITEM, place, total, part)
            total += len(part) // KEY
        self._put(PUT_STAGE, place, identity, total)

    def keys(self, path: str) -> bytes:
        """The keys of the items of a known shard."""
        for _, keys in self._read("SELECT * FROM keys WHERE path = ?", path):
            return bytes(keys)
        raise Damaged(f"the keys of {path} are missing")

    def number(self, place: str, paths: Collection[str]) -> None:
        """Find the items of those of these known shards that have not been looked up yet. Call it in `alone`."""
        done = {path for (path,) in self._rows.execute(NUMBERED, (place, place))}
        wanted = _Wanted()
        for path in paths:
            if path not in done:
                wanted.add(path, self.keys(path))
                if wanted.count >= AT_ONCE:
                    self._number(place, wanted)
                    wanted = _Wanted()
        if wanted.shards:
            self._number(place, wanted)

    def _number(self, place: str, wanted: _Wanted) -> None:
        total, seen = self.items(place)[1], 0
        found: list[Iterator[int]] = [itertools.repeat(total)] * PARTS  # of each part, the numbers of what is wanted
        for _, first, part in self._read("SELECT * FROM item WHERE place = ? ORDER BY first", place):
            seen += len(part) // KEY
            numbers = dict(zip(cut(part), itertools.count(first)))
            keys = wanted.parts[part[0]]
            found[part[0]] = iter(array("I", map(numbers.get, cut(keys), itertools.repeat(total))))
            keys.clear()
        if seen != total:
            raise Damaged(f"{total - seen} items are missing")
        for path, parts in wanted.shards.items():
            self._put(PUT_NUMBERS, path, array("I", [next(found[part]) for part in parts]).tobytes())

    def numbers(self, place: str, paths: Collection[str]) -> Iterator[tuple[str, Sequence[int]]]:
        """The items of these shards by path, as positions in the stage's list. Call `number` first.

        A record that belongs to no item has the length of the list as its position.
        """
        found = 0
        for path, numbers in self._read(NUMBERS, place, place):
            if path in paths:
                found += 1
                yield path, array("I", numbers)
        if found < len(paths):
            raise Damaged(f"{len(paths) - found} shards are missing")

    def heartbeat_age(self, run: str, attempt: str, number: int, now: float) -> float | None:
        """Seconds since an attempt's newest heartbeat was first seen here; 0 when its number has just increased.

        None when the attempt was not known here: the age of its heartbeat is then unknown. `now` is this machine's
        clock in seconds since 1970; if the clock went back, counting starts again.
        """
        before = next(self._read("SELECT * FROM beat WHERE run = ? AND attempt = ?", run, attempt), None)
        if before and before[2] >= number and before[3] <= now:
            return float(now - before[3])
        with self.alone():
            self._put(PUT_BEAT, run, attempt, max(number, before[2] if before else 0), now)
        return 0.0 if before else None

    def unchanged(self, run: str, content: str, now: float) -> float | None:
        """Seconds since `content`, a hex digest of everything there is of a run, was first seen here.

        0 when it has just changed, None when the run was not known here. `now` as in `heartbeat_age`.
        """
        number = int(content[:15], 16)
        before = next(self._read("SELECT * FROM beat WHERE run = ? AND attempt = ?", run, ""), None)
        if before and before[2] == number and before[3] <= now:
            return float(now - before[3])
        with self.alone():
            self._put(PUT_BEAT, run, "", number, now)
        return 0.0 if before else None

    def _put(self, insert: str, *values: Any) -> None:
        self._rows.execute(insert, (*values, _seal(values)))

    def _read(self, select: str, *values: object) -> Iterator[tuple[Any, ...]]:
        for *row, seal in self._rows.execute(select, values):
            if seal != _seal(row):
                raise Damaged("a row was changed")
            yield tuple(row)


def with_index(path: Path, work: Callable[[Index], T]) -> T:
    """What `work` returns, called with the index at `path`, or with a temporary one when that cannot be used.

    A damaged index is replaced. `work` may be called several times. Raises Temporary when there is no room even for a
    temporary database.
    """
    for last in (False, True):
        try:
            with closing(Index(path)) as index:
                return work(index)
        except (sqlite3.Error, UnicodeDecodeError, Damaged) as error:  # a damaged one garbles even error messages
            if last or is_busy(error):
                LOG.warning("%s cannot be used (%s): this time, every shard is read again", path, error)
                break
            _discard(path)
    try:
        with closing(Index(None)) as index:
            return work(index)
    except sqlite3.Error as error:
        raise no_room(error) from error


def _discard(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):
            path.with_name(name).unlink()


class _Wanted:
    """Keys of shards that are looked up in the stage's list of items: part by part, which spares the memory.

    `parts` are the keys by their first byte, in the order in which they were added; `shards` are the first bytes of the
    keys of each shard, by path.
    """

    def __init__(self) -> None:
        self.count = 0
        self.shards: dict[str, bytes] = {}
        self.parts = [bytearray() for _ in range(PARTS)]

    def add(self, path: str, keys: bytes) -> None:
        """Take the keys of a shard, too."""
        self.shards[path] = keys[::KEY]
        self.count += len(keys) // KEY
        parts = self.parts
        for key in cut(keys):
            parts[key[0]] += key


def cut(keys: bytes | bytearray) -> tuple[bytes, ...]:
    """The single keys in a string of keys."""
    return struct.Struct(f"{KEY}s" * (len(keys) // KEY)).unpack(keys)


def in_parts(keys: Iterable[bytes]) -> Iterator[bytes]:
    """The distinct keys, one string of keys for each first byte; memory holds little more than their bytes."""
    parts = [bytearray() for _ in range(PARTS)]
    for key in keys:
        parts[key[0]] += key
    for number, part in enumerate(parts):
        yield b"".join(dict.fromkeys(cut(part)))
        parts[number] = bytearray()


def _row(known: Known) -> tuple[Any, ...]:
    return known.model, known.sha256, known.received, encode(known.kinds), *known.tokens


def _known(model: str, sha256: bytes, received: int, kinds: bytes, prompt: int, completion: int) -> Known:
    words = tuple(sys.intern(kind) for kind in decode(kinds, what="index")) if kinds != b"[]" else ()
    return Known(sys.intern(model), sha256, words, received, (prompt, completion))


def _seal(values: Iterable[Any]) -> int:
    """A checksum of a row, because SQLite does not notice a changed byte."""
    seal = 0
    for value in values:
        seal = zlib.crc32(value if isinstance(value, bytes) else str(value).encode(), seal)
    return seal

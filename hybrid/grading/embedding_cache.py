"""What texts mean to an embedding model, as vectors kept by model and text: nothing is embedded twice.

A SQLite database on this machine's own disk, never in a shared folder. A vector is kept the moment it is there, with a
checksum, since SQLite does not notice a changed byte; what failed is tried again by the next command.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
import struct
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

from hybrid.errors import NotFinished, Temporary
from hybrid.machine import home
from hybrid.machine.files import speaking
from hybrid.protocols import Embedder, Vector, Watcher
from hybrid.records import Completion, Failure

WAIT = 60.0
"""Seconds to wait for another process that writes."""
PAGE = 256
"""Texts that are taken from the temporary table at once."""
ROUNDING = 0.01
"""How far the length of a vector may be from 1."""
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS vector
    (space TEXT, text BLOB, numbers BLOB NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (space, text));
CREATE TEMP TABLE wanted (number INTEGER PRIMARY KEY, text BLOB UNIQUE, words TEXT);
CREATE TEMP TABLE failed (text BLOB PRIMARY KEY, kind TEXT NOT NULL, message TEXT NOT NULL);
"""
# `wanted` has each text of this process once, with its words where a vector is missing; it grows to the disk when it
# must.
NEXT = "SELECT number, text, words FROM wanted WHERE number > ? AND words IS NOT NULL ORDER BY number LIMIT ?"


class Vectors:
    """The vectors of one space: of one model, by which they can be compared."""

    def __init__(self, rows: sqlite3.Connection, space: str) -> None:
        self._rows = rows
        self._space = space

    def want(self, text: str) -> None:
        """`fill` is to see to it that there is a vector of `text`."""
        key = _key(text)
        words = None if self._read(key) else text.encode("utf-8", "replace").decode()
        self._rows.execute("INSERT OR IGNORE INTO wanted (text, words) VALUES (?, ?)", (key, words))

    def counts(self) -> dict[str, int]:
        """How many different texts were wanted, known before `fill`, and could not be embedded."""
        distinct, missing = self._rows.execute("SELECT count(*), count(words) FROM wanted").fetchone()
        (failed,) = self._rows.execute("SELECT count(*) FROM failed").fetchone()
        return {"distinct": distinct, "known": distinct - missing, "failed": failed}

    def fill(self, embedder: Embedder, watcher: Watcher, name: str) -> None:
        """Embed what was wanted and has no vector yet. Raises NotFinished on Ctrl-C: what is there is kept."""
        counts = self.counts()
        if counts["distinct"] == counts["known"]:
            return
        watcher.started(name, counts["distinct"], counts["known"])
        try:
            watcher.working()
            self._embed(embedder, watcher)
        except KeyboardInterrupt as error:
            raise NotFinished("interrupted; the vectors so far are kept", hint="the same command goes on") from error
        finally:
            watcher.ended()

    def of(self, text: str) -> Vector | Failure:
        """The vector of a text that was wanted, or why there is none."""
        key = _key(text)
        found = self._read(key)
        if found is not None:
            return found
        row = self._rows.execute("SELECT kind, message FROM failed WHERE text = ?", (key,)).fetchone()
        return Failure(*row) if row else Failure("missing", "was not embedded")

    def _embed(self, embedder: Embedder, watcher: Watcher) -> None:
        flying: deque[bytes] = deque()
        with closing(self._missing(flying)) as texts:
            for vector in embedder.embed(texts):
                key = flying.popleft()
                failure = vector if isinstance(vector, Failure) else self._keep(key, vector)
                if failure:
                    row = (key, failure.kind, failure.message)
                    self._rows.execute("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", row)
                watcher.finished_item(Completion(key.hex(), None if failure else "", failure))

    def _missing(self, flying: deque[bytes]) -> Generator[str]:
        """The texts to embed; the key of each is put to `flying` before the text is handed out."""
        last = 0
        while page := self._rows.execute(NEXT, (last, PAGE)).fetchall():
            for last, key, words in page:  # noqa: B007 - the next page begins after it
                flying.append(key)
                yield words

    def _keep(self, key: bytes, vector: Vector) -> Failure | None:
        if not abs(math.hypot(*vector) - 1) <= ROUNDING:  # NaN is not either
            return Failure("embedding", "the model gave a vector that is not of length 1")
        numbers = struct.pack(f"<{len(vector)}f", *vector)
        row = (self._space, key, numbers, self._seal(key, numbers))
        self._rows.execute("INSERT OR REPLACE INTO vector VALUES (?, ?, ?, ?)", row)
        return None

    def _read(self, key: bytes) -> Vector | None:
        """The vector that was kept; None also for one that is damaged, which is then made anew."""
        select = "SELECT numbers, seal FROM vector WHERE space = ? AND text = ?"
        row = self._rows.execute(select, (self._space, key)).fetchone()
        if row is None or not isinstance(row[0], bytes) or row[1] != self._seal(key, row[0]):
            return None
        return struct.unpack(f"<{len(row[0]) // 4}f", row[0])

    def _seal(self, key: bytes, numbers: bytes) -> int:
        return zlib.crc32(numbers, zlib.crc32(key, zlib.crc32(self._space.encode())))


@contextmanager
def opened(space: str) -> Iterator[Vectors]:
    """This machine's vectors of a space. Raises Temporary when the database cannot be used, CannotRun without right."""
    path = home.home() / "vectors.sqlite"
    with speaking(path.parent, doing="making it"):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as rows:
            rows.executescript(SCHEMA)
            yield Vectors(rows, space)
    except sqlite3.Error as error:
        raise Temporary(
            f"cannot keep vectors in {path}: {error}",
            hint="is the disk full, or is another program using it? if the file is damaged, delete it",
        ) from error


def _key(text: str) -> bytes:
    """sha256 of the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()

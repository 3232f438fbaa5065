"""The cache of embeddings on this machine, keyed by model and text: nothing is embedded twice.

It is on this machine's own disk, never in a shared folder. A vector is stored as soon as it arrives, with a checksum,
since SQLite does not notice a changed byte. The next command tries again what failed.
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

from hybrid.errors import NotFinished
from hybrid.machine import home
from hybrid.machine.database import open_cache
from hybrid.protocols import Embedder, Vector, Watcher
from hybrid.records import Completion, Failure

PAGE = 256
"""Texts that are read from the temporary table at a time."""
ROUNDING = 0.01
"""How far the length of a vector may be from 1."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS vector
    (space TEXT, text BLOB, numbers BLOB NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (space, text));
CREATE TEMP TABLE wanted (number INTEGER PRIMARY KEY, text BLOB UNIQUE, words TEXT);
CREATE TEMP TABLE failed (text BLOB PRIMARY KEY, kind TEXT NOT NULL, message TEXT NOT NULL);
"""
# `wanted` has each text of this process once, with its words where the vector is missing; it spills to disk.
NEXT = "SELECT number, text, words FROM wanted WHERE number > ? AND words IS NOT NULL ORDER BY number LIMIT ?"


class EmbeddingCache:
    """The vectors of one space: of one model, by which they can be compared."""

    def __init__(self, rows: sqlite3.Connection, space: str) -> None:
        self._rows = rows
        self._space = space

    def want(self, text: str) -> None:
        """Ask for the vector of `text`; `fill` makes those that are missing."""
        key = _key(text)
        words = None if self._read(key) else text.encode("utf-8", "replace").decode()
        self._rows.execute("INSERT OR IGNORE INTO wanted (text, words) VALUES (?, ?)", (key, words))

    def counts(self) -> dict[str, int]:
        """Numbers of texts: distinct ones that were wanted, known before `fill`, and failed to embed."""
        distinct, missing = self._rows.execute("SELECT count(*), count(words) FROM wanted").fetchone()
        (failed,) = self._rows.execute("SELECT count(*) FROM failed").fetchone()
        return {"distinct": distinct, "known": distinct - missing, "failed": failed}

    def fill(self, embedder: Embedder, watcher: Watcher, name: str) -> None:
        """Embed the wanted texts without a vector. Raises NotFinished on Ctrl-C: the vectors so far are stored."""
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
        in_flight: deque[bytes] = deque()
        with closing(self._missing(in_flight)) as texts:
            for vector in embedder.embed(texts):
                key = in_flight.popleft()
                failure = vector if isinstance(vector, Failure) else self._keep(key, vector)
                if failure:
                    row = (key, failure.kind, failure.message)
                    self._rows.execute("INSERT OR REPLACE INTO failed VALUES (?, ?, ?)", row)
                watcher.finished_item(Completion(key.hex(), None if failure else "", failure))

    def _missing(self, in_flight: deque[bytes]) -> Generator[str]:
        """The texts to embed; the key of each is put to `in_flight` before the text is handed out."""
        last = 0
        while page := self._rows.execute(NEXT, (last, PAGE)).fetchall():
            for last, key, words in page:  # noqa: B007 - the next page begins after it
                in_flight.append(key)
                yield words

    def _keep(self, key: bytes, vector: Vector) -> Failure | None:
        if not abs(math.hypot(*vector) - 1) <= ROUNDING:  # NaN is not either
            return Failure("embedding", "the model gave a vector that is not of length 1")
        numbers = struct.pack(f"<{len(vector)}f", *vector)
        row = (self._space, key, numbers, self._checksum(key, numbers))
        self._rows.execute("INSERT OR REPLACE INTO vector VALUES (?, ?, ?, ?)", row)
        return None

    def _read(self, key: bytes) -> Vector | None:
        """The stored vector; None also for a damaged one, which is then embedded again."""
        select = "SELECT numbers, seal FROM vector WHERE space = ? AND text = ?"
        row = self._rows.execute(select, (self._space, key)).fetchone()
        if row is None or not isinstance(row[0], bytes) or row[1] != self._checksum(key, row[0]):
            return None
        return struct.unpack(f"<{len(row[0]) // 4}f", row[0])

    def _checksum(self, key: bytes, numbers: bytes) -> int:
        return zlib.crc32(numbers, zlib.crc32(key, zlib.crc32(self._space.encode())))


@contextmanager
def opened(space: str) -> Iterator[EmbeddingCache]:
    """This machine's embeddings of a space. Raises as `open_cache` does."""
    with open_cache(home.home() / "vectors.sqlite", SCHEMA, "embeddings") as rows:
        yield EmbeddingCache(rows, space)


def _key(text: str) -> bytes:
    """sha256 of the text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()

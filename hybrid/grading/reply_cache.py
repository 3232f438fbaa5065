"""The cache of model replies on this machine, keyed by everything that shapes a reply: no call is made twice.

It is on this machine's own disk, never in a shared folder. A reply is stored as soon as it arrives, whatever its text.
A call that failed is not stored; the next command makes it again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from hybrid.canonical import encoded
from hybrid.errors import CannotRun, NotFinished
from hybrid.machine import home
from hybrid.machine.database import open_cache
from hybrid.protocols import Backend, Watcher
from hybrid.records import Completion, Failure, Request, unanswered
from hybrid.thoughts import split

REQUEST_FORM = 2
"""Version of the form in which requests reach a model. Raising it makes every stored reply stale."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS reply (key BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""
# `seen` belongs to this process and spills to disk: a call that a file repeats is made once, in flat memory.


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply: its text, and why it ended (`stop`, `length`)."""

    text: str
    finish: str


@dataclass(slots=True)
class CallCounts:
    """Calls of one `ReplyCache.ask`: distinct ones, and how many of them were in the cache."""

    distinct: int = 0
    known: int = 0


class ReplyCache:
    """The database, and the calls of this process that failed."""

    def __init__(self, rows: sqlite3.Connection) -> None:
        self._rows = rows
        self._failed: dict[bytes, Failure] = {}

    def of(self, model: str, request: Request) -> Reply | Failure | None:
        """The reply of the model with that digest, or why there is none; None when the call was never made.

        A thought in a stored reply is split off here, as it is for outputs.
        """
        key = _key(model, request)
        row = self._rows.execute("SELECT text, finish FROM reply WHERE key = ?", (key,)).fetchone()
        if row is None:
            return self._failed.get(key)
        thought, text = split(row[0])
        return unanswered(thought) if text is None else Reply(text, row[1])

    def ask(
        self,
        model: str,
        requests: Callable[[], Iterable[Request]],
        backend: Callable[[], Backend],
        watcher: Watcher,
        name: str,
    ) -> CallCounts:
        """Make every distinct call that has no reply yet; `requests` is iterated twice.

        `backend` loads the model, whose digest must be `model`; it is called only when a call is left to make. Raises
        NotFinished on Ctrl-C: the replies so far are stored.
        """
        asking = CallCounts()
        self._forget_seen()
        for request in requests():
            key = _key(model, request)
            if self._is_new(key):
                asking.distinct += 1
                asking.known += self._has(key)
        if asking.distinct == asking.known:
            return asking
        watcher.started(name, asking.distinct, asking.known)
        try:
            self._make(model, requests, backend(), watcher)
        except KeyboardInterrupt as error:
            raise NotFinished(
                "interrupted; the model's replies so far are kept", hint="the same command goes on"
            ) from error
        finally:
            watcher.ended()
        return asking

    def _make(self, model: str, requests: Callable[[], Iterable[Request]], backend: Backend, watcher: Watcher) -> None:
        if backend.model.digest != model:
            raise CannotRun(f"the model {backend.model.name} changed while it was loaded", hint="run the command again")
        watcher.working()
        self._forget_seen()
        with closing(self._missing(model, requests())) as missing:
            for completion in backend.generate(missing):
                self._keep(completion)
                watcher.finished_item(completion)

    def _missing(self, model: str, requests: Iterable[Request]) -> Generator[Request, None, None]:
        for request in requests:
            key = _key(model, request)
            if not self._has(key) and key not in self._failed and self._is_new(key):
                yield replace(request, key=key.hex())

    def _forget_seen(self) -> None:
        self._rows.execute("DELETE FROM seen")

    def _is_new(self, key: bytes) -> bool:
        return self._rows.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount > 0

    def _has(self, key: bytes) -> bool:
        return self._rows.execute("SELECT 1 FROM reply WHERE key = ?", (key,)).fetchone() is not None

    def _keep(self, completion: Completion) -> None:
        key = bytes.fromhex(completion.key)
        if completion.error or completion.text is None:
            self._failed[key] = completion.error or Failure("engine", "no text")
            return
        # A lone surrogate cannot be written, and no reading of the text depends on it.
        text = completion.text.encode("utf-8", "replace").decode()
        self._rows.execute("INSERT OR REPLACE INTO reply VALUES (?, ?, ?)", (key, text, completion.finish))


@contextmanager
def opened() -> Iterator[ReplyCache]:
    """This machine's reply cache. Raises as `open_cache` does."""
    with open_cache(home.home() / "replies.sqlite", SCHEMA, "the model's replies") as rows:
        yield ReplyCache(rows)


def _key(model: str, request: Request) -> bytes:
    """sha256 over the model's digest and all of the request that shapes its reply."""
    return hashlib.sha256(f"[{REQUEST_FORM},{encoded(model)},{request.encoded()}]".encode()).digest()

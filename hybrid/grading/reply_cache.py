"""What models said to light work on this machine, kept by everything that shaped it: no call is made twice.

A SQLite database on this machine's own disk, never in a shared folder. A reply is kept the moment it is there, whatever
its text; a call that failed is not, and is made again by the next command.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from hybrid.canonical import encoded
from hybrid.errors import CannotRun, NotFinished, Temporary
from hybrid.machine import home
from hybrid.protocols import Backend, Watcher
from hybrid.records import Completion, Failure, Request, unanswered
from hybrid.thoughts import split

WAY = 2
"""How requests are put to models, raised when some reach them in another form: what was kept before is asked anew."""

WAIT = 60.0
"""Seconds to wait for another process that writes."""
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS reply (key BLOB PRIMARY KEY, text TEXT NOT NULL, finish TEXT NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID;
"""
# `seen` is of this process, and grows to the disk when it must: what a file repeats is asked once, in flat memory.


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered: its text, and why it ended (`stop`, `length`)."""

    text: str
    finish: str


@dataclass(slots=True)
class Asking:
    """What came of `Replies.ask`: distinct requests, how many were known before, why calls failed."""

    distinct: int = 0
    known: int = 0


class Replies:
    """The database, and for this process the calls that failed."""

    def __init__(self, rows: sqlite3.Connection) -> None:
        self._rows = rows
        self._failed: dict[bytes, Failure] = {}

    def of(self, model: str, request: Request) -> Reply | Failure | None:
        """The reply of the model with that digest, or why there is none; None when the call was never made.

        Replies that were kept with a thought in them are taken apart here, as outputs are.
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
    ) -> Asking:
        """Make every distinct call that has no reply yet; `requests` is gone through twice.

        `backend` loads the model, whose digest must be `model`, and is called only when something is to be asked.
        Raises NotFinished on Ctrl-C: what was answered is kept.
        """
        asking = Asking()
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
                "interrupted; what the model said so far is kept", hint="the same command goes on"
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
def opened() -> Iterator[Replies]:
    """This machine's replies. Raises Temporary when the database cannot be used."""
    path = home.home() / "replies.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as rows:
            rows.executescript(SCHEMA)
            yield Replies(rows)
    except (sqlite3.Error, OSError) as error:
        raise Temporary(
            f"cannot keep what the model says in {path}: {error}",
            hint="is the disk full, or is another program using it? if the file is damaged, move it away",
        ) from error


def _key(model: str, request: Request) -> bytes:
    """sha256 over the model's digest and all of the request that shapes its reply."""
    return hashlib.sha256(f"[{WAY},{encoded(model)},{request.encoded()}]".encode()).digest()

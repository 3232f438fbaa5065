"""What a run asked, found again: the items of its last stage by their keys, made anew from its data."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from hybrid.canonical import decode
from hybrid.errors import CannotRun, NotFinished
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import bound
from hybrid.execution.search_records import keys_of
from hybrid.folder.runs import Run
from hybrid.machine.database import connect_temporary, no_room
from hybrid.records import Item
from hybrid.work import Derive, Rounds

SCHEMA = "CREATE TABLE request (key TEXT PRIMARY KEY, role TEXT, line TEXT) WITHOUT ROWID;"


def keyed_items(run: Run, name: str = "") -> Iterator[tuple[str, Item]]:
    """Key and item of everything that the stage `name`, by default that of outputs.json, asks, in its order.

    Raises Waits while earlier stages are not finished, NotFinished while no digest of a model is known, which is a part
    of every key, CannotRun when the pipeline is not installed here or the stage asks no model.
    """
    chain = bound(run, pipeline_of(run))
    if not name:
        chain.refuse_waiting()
    stage = next((one for one in chain.stages if one.name == name), chain.stages[-1])
    if isinstance(stage.work, Derive | Rounds):
        raise CannotRun(f"{run.id}: the stage '{stage.name}' sends no request to a model")
    digest = chain.run.model_digest(stage.name)
    if not digest:
        raise NotFinished(
            f"{run.id}: no worker has said which model answers, and the keys of the items contain its digest",
            hint="wait for the first shard, or submit the run with --model-digest",
        )
    key_of = keys_of(chain.run, stage, digest)
    for item in stage.items(chain.run.tasks()):
        yield key_of(item).hex(), item


class Requests:
    """The requests of a run by the key of their item, in a temporary database."""

    def __init__(self, rows: sqlite3.Connection) -> None:
        self._rows = rows

    def of(self, key: str) -> dict[str, Any] | None:
        """The request of an item as the object that its key is made of (docs/format.md); None for an unknown key."""
        row = self._rows.execute("SELECT line FROM request WHERE key = ?", (key,)).fetchone()
        found: dict[str, Any] | None = decode(row[0].encode(), what="a request") if row else None
        return found

    def role_of(self, key: str) -> str:
        """The role of the model that an item of a search asks; "" where it is its stage's, and for an unknown key."""
        row = self._rows.execute("SELECT role FROM request WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""


@contextmanager
def requests_of(run: Run, name: str = "") -> Iterator[Requests]:
    """The requests of a stage as long as the block runs. Raises as `keyed_items`, and Temporary without room."""
    with closing(connect_temporary(SCHEMA)) as rows:
        try:
            lines = ((key, item.role, item.request.encoded()) for key, item in keyed_items(run, name))
            rows.executemany("INSERT OR IGNORE INTO request VALUES (?, ?, ?)", lines)
            yield Requests(rows)
        except sqlite3.Error as error:
            raise no_room(error) from error

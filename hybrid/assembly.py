"""From shards to outputs: one record an item, in an order that does not depend on who wrote what when."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from hybrid.canonical import decode, encode
from hybrid.folder.runs import Run
from hybrid.records import Output

SCHEMA = """
CREATE TABLE record (
    key TEXT PRIMARY KEY, failed INTEGER, attempt TEXT, seq INTEGER,
    task TEXT, question TEXT, sample INTEGER, view TEXT, line BLOB)
"""
KEEP = """
INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET failed = excluded.failed, attempt = excluded.attempt, seq = excluded.seq,
    line = excluded.line
WHERE (excluded.failed, excluded.attempt, excluded.seq) < (failed, attempt, seq)
"""


class Assembly:
    """The union of a stage's verified records. Memory stays flat: records wait in a temporary database on local disk.

    Of several records of one item a text wins over a failure, then the earlier attempt by name, then the earlier
    shard: the same choice on every machine. Use as a context manager.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._place = tempfile.TemporaryDirectory(prefix="hybrid-assembly-")
        self._rows = sqlite3.connect(Path(self._place.name) / "records.sqlite")
        self._rows.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {SCHEMA};")
        self.refused: list[str] = []
        self._models: dict[bytes, Mapping[str, Any]] = {}
        for _, shard in run.shards(stage, self.refused):
            self._models[encode(shard.header["model"])] = shard.header["model"]
            attempt, seq = str(shard.header["attempt"]), shard.name.seq
            self._rows.executemany(KEEP, (_row(record, attempt, seq) for record in shard.records))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._rows.close()
        self._place.cleanup()

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """Every model (name, digest, engine) that wrote a record."""
        return [self._models[key] for key in sorted(self._models)]

    @property
    def count(self) -> int:
        """How many items have a record."""
        (count,) = self._rows.execute("SELECT count(*) FROM record").fetchone()
        return int(count)

    def outputs(self) -> Iterator[Output]:
        """The records with the references they are judged against, by task, question, sample, view and key."""
        references = self._run.references()
        rows = self._rows.execute("SELECT line FROM record ORDER BY task, question, sample, view, key")
        for (line,) in rows:
            value = decode(line, what=f"{self._run.id}: record")
            value["reference"] = references.get(value["question"])
            yield Output.from_json(value, what=f"{self._run.id}: record")


def _row(record: dict[str, Any], attempt: str, seq: int) -> tuple[object, ...]:
    view = encode(record["view"]).decode()
    where = (record["task"], record["question"], record["sample"], view)
    return (record["key"], int(record["error"] is not None), attempt, seq, *where, encode(record))

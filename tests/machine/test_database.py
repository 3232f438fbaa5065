"""SQLite databases on this machine's disk: processes that open one at the same moment all get it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hybrid.machine import database


def test_who_opens_a_database_while_another_makes_it_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not wait where the journal is changed, whatever its time limit is."""
    with closing(sqlite3.connect(tmp_path / "rows", isolation_level=None)) as first:
        first.executescript("CREATE TABLE made (by TEXT); BEGIN IMMEDIATE")
        pauses: list[float] = []

        def end_of_work(seconds: float) -> None:
            pauses.append(seconds)
            if first.in_transaction:
                first.execute("COMMIT")

        monkeypatch.setattr(database.time, "sleep", end_of_work)
        with closing(database.connect_shared(tmp_path / "rows", wait_s=600)) as rows:
            assert rows.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert pauses


def test_a_database_that_stays_locked_is_given_up_in_the_end(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "rows", isolation_level=None)) as first:
        first.executescript("CREATE TABLE made (by TEXT); BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked") as caught:
            database.connect_shared(tmp_path / "rows", wait_s=0.05)
        assert database.is_busy(caught.value)


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"nothing that SQLite knows" * 1000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database") as caught:
        database.connect_shared(tmp_path / "rows", wait_s=600)
    assert not database.is_busy(caught.value)

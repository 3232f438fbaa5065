"""The index only saves time: damaged, of another version, locked or lost, the answers stay the same."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.errors import Temporary
from hybrid.execution import index
from hybrid.execution.index import Damaged, Index, Known, cut, in_parts, with_index

PLACE = "runs/r-0123456789ab/answer"
MODEL = "a" * 64


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def path_of(number: int) -> str:
    return f"{PLACE}/attempt/000/shard-{number:05d}-3-0123456789abcdef.jsonl.zst"


def filled(index: Index, shards: int = 20) -> dict[str, list[int]]:
    """Three items in a shard, of which the stage has all but the last; what is then known of them."""
    index.add(
        (path_of(n), Known(MODEL, b"%032d" % n, ("odd",)), b"".join(map(key, range(3 * n, 3 * n + 3))))
        for n in range(shards)
    )
    with index.alone():
        index.set_items(PLACE, "answer/1", in_parts(map(key, range(3 * shards - 1))))
        index.number(PLACE, [path_of(n) for n in range(shards)])
    return contents(index, shards)


def contents(index: Index, shards: int = 20) -> dict[str, list[int]]:
    return {path: list(numbers) for path, numbers in index.numbers(PLACE, [path_of(n) for n in range(shards)])}


def test_every_item_has_one_number_whatever_shard_holds_it(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        numbers = [number for some in filled(kept).values() for number in some]
        assert kept.items(PLACE) == ("answer/1", 59)
        assert sorted(numbers) == list(range(60))  # 59 stands for what is no item of the stage
        assert numbers[-1] == 59
        again = "runs/r-0123456789ab/answer/later/000/shard-00000-2-0123456789abcdef.jsonl.zst"
        kept.add([(again, Known(MODEL, b"2"), key(0) + key(1000))])
        with kept.alone():
            kept.number(PLACE, [again])
        assert [(path, list(some)) for path, some in kept.numbers(PLACE, [again])] == [(again, [numbers[0], 59])]


def test_what_is_remembered_is_there_in_the_next_process(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        before = filled(kept)
        kept.receive([(path_of(3), replace(kept.known(PLACE)[path_of(3)], received=7))])
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        assert contents(kept) == before
        assert kept.known(PLACE)[path_of(3)] == Known(MODEL, b"%032d" % 3, ("odd",), received=7)
        assert kept.known(PLACE)[path_of(4)] == Known(MODEL, b"%032d" % 4, ("odd",), received=0)


def test_places_whose_names_begin_alike_are_kept_apart(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        for place in (PLACE, f"{PLACE}-2", f"{PLACE}0", f"{PLACE}.x"):
            kept.add([(f"{place}/a/000/s", Known(MODEL, b"1"), key(1))])
        assert list(kept.known(PLACE)) == [f"{PLACE}/a/000/s"]


def test_another_list_of_items_numbers_the_shards_anew(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        filled(kept)
        with kept.alone():
            kept.set_items(PLACE, "answer/2", in_parts([key(0), key(0), key(7)]))
            with pytest.raises(Damaged, match="20 shards are missing"):
                contents(kept)
            kept.number(PLACE, [path_of(0)])
        assert kept.items(PLACE) == ("answer/2", 2)
        assert sorted(contents(kept, 1)[path_of(0)]) in ([0, 2, 2], [1, 2, 2])


def test_many_keys_are_looked_up_in_several_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Index(None)) as kept:
        whole = filled(kept)
    monkeypatch.setattr(index, "AT_ONCE", 7)
    with closing(Index(None)) as kept:
        assert filled(kept) == whole


def test_parts_hold_every_different_key_once() -> None:
    keys = [key(n % 700) for n in range(1000)]
    parts = list(in_parts(keys))
    found = [one for part in parts for one in cut(part)]
    assert sorted(found) == sorted(set(keys))
    assert all(len({one[0] for one in cut(part)}) <= 1 for part in parts)


class Work:
    """Tells what is known, and fills in what is missing. Counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, kept: Index) -> dict[str, list[int]]:
        self.calls += 1
        return contents(kept) if len(kept.known(PLACE)) == 20 else filled(kept)


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """The contents are the same whichever byte of the database was changed: a damaged index is rebuilt."""
    path = tmp_path / "x.sqlite"
    with closing(Index(path)) as kept:
        before = filled(kept)
    good = path.read_bytes()
    rng = random.Random(0)
    rebuilt = 0
    for _ in range(400):
        position = rng.randrange(len(good))
        damaged = bytearray(good)
        damaged[position] ^= rng.randrange(1, 256)
        path.write_bytes(bytes(damaged))
        work = Work()
        assert with_index(path, work) == before, position
        rebuilt += work.calls > 1
        for left in tmp_path.iterdir():
            left.unlink()
    assert rebuilt > 20


@pytest.mark.parametrize("content", [b"", b"no database at all " * 100, b"SQLite format 3\0" + b"\0" * 5000])
def test_what_is_no_database_is_replaced_by_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(content)
    before = with_index(path, filled)
    assert with_index(path, contents) == before


def test_a_database_of_another_version_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("CREATE TABLE shard (what TEXT)")
        rows.execute("PRAGMA user_version = 99")
    before = with_index(path, filled)
    assert with_index(path, contents) == before
    with closing(sqlite3.connect(path)) as rows:
        assert rows.execute("PRAGMA user_version").fetchone() == (index.VERSION,)


def test_a_database_that_somebody_holds_is_done_without_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.sqlite"
    before = with_index(path, filled)
    monkeypatch.setattr(index, "WAIT", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert with_index(path, filled) == before
        assert "cannot be used" in caplog.text
        other.execute("ROLLBACK")
    assert with_index(path, contents) == before


def test_a_place_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert with_index(tmp_path / "file" / "x.sqlite", filled)
    assert "cannot be used" in caplog.text


def test_without_any_room_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(kept: Index) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(Temporary, match="no room"):
        with_index(tmp_path / "x.sqlite", full)


def test_how_long_an_attempt_was_silent_is_timed_from_when_its_counter_was_first_seen(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        assert kept.heartbeat_age("r", "a", 5, 1000.0) is None  # how old it is nobody knows
        assert kept.heartbeat_age("r", "b", 1, 1010.0) is None
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        assert kept.heartbeat_age("r", "a", 5, 1060.0) == 60.0
        assert kept.heartbeat_age("r", "a", 6, 1070.0) == 0.0
        assert kept.heartbeat_age("r", "a", 5, 1080.0) == 10.0  # an older beat, from a listing that lags
        assert kept.heartbeat_age("r", "a", 6, 1100.0) == 30.0


def test_a_clock_that_went_back_starts_the_time_anew(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        kept.heartbeat_age("r", "a", 5, 1000.0)
        assert kept.heartbeat_age("r", "a", 5, 400.0) == 0.0
        assert kept.heartbeat_age("r", "a", 5, 430.0) == 30.0


def test_what_was_not_kept_whole_is_not_kept(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "x.sqlite")) as kept:
        filled(kept)
        with suppress(KeyboardInterrupt), kept.alone():
            kept.set_items(PLACE, "answer/2", [])
            raise KeyboardInterrupt
        assert kept.items(PLACE)[0] == "answer/1"
        assert len(contents(kept)) == 20


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user who is refused")
def test_a_read_only_home_is_done_without(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert with_index(tmp_path / "index" / "x.sqlite", filled)
    finally:
        tmp_path.chmod(0o700)

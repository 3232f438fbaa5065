"""Shards prove their own completeness, and close by size, by age and at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import encode
from hybrid.errors import BadData, Temporary
from hybrid.folder import shards
from hybrid.folder.medium import Disk
from hybrid.folder.names import ShardName
from hybrid.folder.shards import FORMAT, MAX_FILE, Shard, ShardWriter, pack, verify_shard
from hybrid.records import Completion, Failure, Record
from tests.support.small_disks import mounted

MODEL = {"name": "m", "digest": "0" * 64, "about": {}}
HEADER = {"format": FORMAT, "version": 1, "run": "r", "stage": "answer", "attempt": "a", "model": MODEL}


def record(number: int, text: str = "x") -> Record:
    return Record(f"{number:064x}", "t", "t/0", {}, 0, Completion(f"{number:064x}", text=text, finish="stop"))


def write(folder: Path, count: int, **options: float) -> list[Path]:
    paths: list[Path] = []
    how: Any = {"seconds": 60, **options}
    writer = ShardWriter(Disk(folder), "a", HEADER, on_close=lambda path, _: paths.append(folder / path), **how)
    for number in range(count):
        writer.add(record(number))
    writer.close()
    return paths


def read_shard(path: Path) -> Shard:
    return verify_shard(path.name, Disk(path.parent).read(path.name, MAX_FILE))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 3)
    shard = read_shard(path)
    assert [r["key"][-1] for r in shard.records] == ["0", "1", "2"]
    assert shard.header["run"] == "r"
    assert ShardName.parse(path.name) == shard.name


def test_every_cut_that_loses_content_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 4)
    whole, shard = path.read_bytes(), read_shard(path)
    for length in range(len(whole) - 4):  # the last 4 bytes are zstd's own checksum; ours covers the content
        path.write_bytes(whole[:length])
        with pytest.raises(BadData):
            read_shard(path)
    path.write_bytes(whole[:-1])
    assert read_shard(path) == shard


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    name, data = pack({**HEADER, "seq": 0}, [encode(record(n).to_json()) for n in range(20)], 0)
    damaged = bytearray(data)
    damaged[position % len(data)] ^= flip
    path = tmp_path_factory.getbasetemp() / str(name)
    path.write_bytes(data)
    good = read_shard(path)
    path.write_bytes(bytes(damaged))
    with suppress(BadData):
        assert read_shard(path) == good


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, 2)
    name = read_shard(path).name
    for wrong in (ShardName(0, 3, name.sha16), ShardName(0, 2, "0" * 16)):
        moved = path.with_name(str(wrong))
        moved.write_bytes(path.read_bytes())
        with pytest.raises(BadData):
            read_shard(moved)


def test_a_conflict_copy_does_not_have_the_name_of_a_shard() -> None:
    for name in ("shard-00000-1-0123456789abcdef.jsonl (1).zst", "shard-00000-1-0123456789abcdef.sync-conflict.zst"):
        assert ShardName.parse(name) is None


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_PAYLOAD", 1_000_000)
    bomb = tmp_path / str(ShardName(0, 1, "0" * 16))
    bomb.write_bytes(zstandard.ZstdCompressor().compress(b"0" * 50_000_000))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadData, match="unpacks to more"):
        read_shard(bomb)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (path,) = write(tmp_path / "a", 1)
    link = tmp_path / path.name
    link.symlink_to(path)
    with pytest.raises(BadData, match="not a regular file"):
        read_shard(link)


def test_a_shard_closes_when_it_is_large_enough(tmp_path: Path) -> None:
    paths = write(tmp_path, 10, size=1000)
    assert len(paths) > 1
    assert [r["key"] for path in paths for r in read_shard(path).records] == [f"{n:064x}" for n in range(10)]


def test_a_shard_closes_by_age_while_nothing_arrives(tmp_path: Path) -> None:
    now, closed = [0.0], list[int]()
    writer = ShardWriter(
        Disk(tmp_path), "a", HEADER, seconds=60, on_close=lambda _, count: closed.append(count), clock=lambda: now[0]
    )
    writer.add(record(0))
    for now[0] in (1.0, 59.9):
        writer.tick()
        assert not closed
    now[0] = 60.0
    writer.tick()
    assert closed == [1]


def test_no_folder_gets_more_than_250_shards(tmp_path: Path) -> None:
    write(tmp_path, 600, size=1)
    counts = [len(list(batch.iterdir())) for batch in sorted((tmp_path / "a").iterdir())]
    assert counts == [250, 250, 100]
    assert len(list(shards.shard_paths(Disk(tmp_path), "."))) == 600


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", "64k") as place:
        yield place


def test_a_full_disk_is_told_and_loses_no_record(full_disk: Path) -> None:
    ballast = full_disk / "ballast"
    ballast.write_bytes(bytes(30_000))
    texts = [os.urandom(6000).hex() for _ in range(8)]
    writer = ShardWriter(Disk(full_disk), "a", HEADER, seconds=60, size=1)
    refused: list[str] = []
    for number, text in enumerate(texts):
        try:
            writer.add(record(number, text))
        except Temporary as error:
            refused.append(error.message)
    assert refused
    assert all("no room left" in message for message in refused)
    assert writer.open_records == len(refused)
    ballast.unlink()
    writer.tick()
    paths = [full_disk / path for path in shards.shard_paths(Disk(full_disk), ".")]
    assert [one["text"] for path in paths for one in read_shard(path).records] == texts, "a record was lost"
    assert sorted(full_disk.glob("a/*/*")) == sorted(paths), "a torn file was left behind"


@pytest.mark.parametrize(
    "line",
    [b"[]", b"{}", b'{"key":"00"}', b'{"key":"%s"}' % (b"0" * 64), b'{"key":["x"]}', b"1", b'{"key":"../../etc"}'],
)
def test_a_shard_that_verifies_and_holds_no_records_is_refused(tmp_path: Path, line: bytes) -> None:
    name, data = pack({**HEADER, "seq": 0}, [line], 0)
    (tmp_path / str(name)).write_bytes(data)
    with pytest.raises(BadData, match="record 0: not a"):
        read_shard(tmp_path / str(name))


@pytest.mark.parametrize("model", [None, [], {}, {"digest": 1}])
def test_a_shard_that_names_no_model_is_refused(tmp_path: Path, model: object) -> None:
    name, data = pack({**HEADER, "seq": 0, "model": model}, [encode(record(0).to_json())], 0)  # type: ignore[dict-item]
    (tmp_path / str(name)).write_bytes(data)
    with pytest.raises(BadData, match="names no model"):
        read_shard(tmp_path / str(name))


def lines_like_ours() -> list[bytes]:
    """Records of every kind that a worker writes, and some that others might."""
    key = "0123456789abcdef" * 4
    told: list[dict[str, Any]] = [
        {"text": "x"},
        {"text": 'an "é" \\ \n\t\x01 \u2028 😀', "thought": "hm"},
        {"text": "", "finish": "length", "prompt_tokens": 2**40, "logprob": -1e-07, "seconds": 1e15},
        {"text": "1", "trained": {"adapter": "a" * 64}},
        {"error": Failure("engine", "broken")},
    ]
    views: list[dict[str, Any]] = [{}, {"a": [1, -2.5, "é"], "b": None, "c": {"d": [[]]}}, {"": True}]
    records = [Record(key, "t", "t/0", view, 3, Completion(key, **one)) for one in told for view in views]
    return [encode(one.to_json()) for one in records]


LIKE_OURS = lines_like_ours()
ODD = [
    b"\xff",
    b"\xed\xa0\x80",
    b"\n",
    b"\\u00e9",
    b"\\ud800",
    b"\\x",
    b"00",
    b"-",
    b"1e999",
    b"9" * 30,
    b"{}",
    b'"',
    b",",
    b" ",
    b"A",
]


@settings(max_examples=600, deadline=None)
@given(
    line=st.sampled_from(LIKE_OURS),
    at=st.integers(0, 400),
    cut=st.integers(0, 3),
    put=st.one_of(st.sampled_from(ODD), st.binary(max_size=2)),
)
def test_a_line_counts_exactly_when_a_decoder_takes_it(line: bytes, at: int, cut: int, put: bytes) -> None:
    """The quick way through a shard is as strict as looking at each record, and finds the same in it."""
    at %= len(line)
    odd = (line[:at] + put + line[at + cut :]).replace(b"\n", b"")
    lines = [LIKE_OURS[0], odd, LIKE_OURS[-1]]
    name, data = pack({**HEADER, "seq": 0}, lines, 0)
    try:
        records = [shards._record(one, "record") for one in lines]
    except BadData:
        with pytest.raises(BadData):
            verify_shard(str(name), data)
        return
    shard = verify_shard(str(name), data)
    assert list(shard.records) == records
    assert sorted(shard.answered) == sorted(bytes.fromhex(one["key"]) for one in records if not one["error"])
    assert list(shard.failed) == [(bytes.fromhex(one["key"]), one["error"]["kind"]) for one in records if one["error"]]


def test_most_lines_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = pack({**HEADER, "seq": 0}, LIKE_OURS, 0)
    looked: list[bytes] = []
    real = shards._record
    monkeypatch.setattr(shards, "_record", lambda line, what: looked.append(line) or real(line, what))  # type: ignore[func-returns-value]
    verify_shard(str(name), data)
    assert len(looked) == 11  # failures, trainings, control characters and nested views
    assert not {LIKE_OURS[0], LIKE_OURS[6]} & set(looked)


@pytest.mark.parametrize("key", ["A" * 64, "0" * 62 + "  ", "é" * 32, '","question":"' + "0" * 51])
def test_what_is_no_key_is_refused(key: str) -> None:
    line = LIKE_OURS[0].replace(b"0123456789abcdef" * 4, key.encode())
    name, data = pack({**HEADER, "seq": 0}, [LIKE_OURS[0], line], 0)
    with pytest.raises(BadData, match="record 1"):
        verify_shard(str(name), data)

"""Journals: what a killed process had in its open shard becomes that shard; torn, foreign and living ones are told."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from hybrid.errors import Temporary
from hybrid.folder.journal import FORMAT, lock_of, read_journal, release
from hybrid.folder.medium import Disk
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import Run
from hybrid.folder.shards import ShardWriter
from tests.folder.test_folder_shards import HEADER, record

RUN = "r-0123456789ab"
THERE = f"runs/{RUN}/answer/a"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(RUN, {"version": 1, "backend": "", "model": "", "model_digest": ""}, Disk(tmp_path / "folder"))


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    return Journals(tmp_path / "journals")


def killed(run: Run, journals: Journals, count: int, *, seconds: float = 60.0, size: int = 1 << 20) -> None:
    """Write records in another process, which is killed after the last one."""
    child = os.fork()
    if not child:
        header = {**HEADER, "run": RUN}
        writer = ShardWriter(run.folder, THERE, header, seconds=seconds, size=size)
        writer.journal = journals.journal(RUN, "answer", "a")
        for number in range(count):
            writer.add(record(number))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def recorded(run: Run) -> list[int]:
    refused: list[str] = []
    found = [int(one["key"], 16) for _, shard in run.shards("answer", refused) for one in shard.records]
    assert not refused
    return found


def the_journal(tmp_path: Path) -> Path:
    (found,) = tmp_path.glob("journals/*/*/*.journal")
    return found


def test_the_open_shard_of_a_killed_process_is_written_by_the_next_one(
    run: Run, journals: Journals, tmp_path: Path
) -> None:
    killed(run, journals, 5)
    assert recorded(run) == []
    assert journals.recover(run, run.folder) == 5
    assert recorded(run) == [0, 1, 2, 3, 4]
    assert journals.recover(run, run.folder) == 0
    assert not [path for path in tmp_path.glob("journals/**/*") if path.is_file()]


def test_closed_shards_are_in_no_journal(run: Run, journals: Journals) -> None:
    size = len(record(0).key) * 5
    killed(run, journals, 5, size=size)
    before = recorded(run)
    assert len(before) + journals.recover(run, run.folder) == 5
    assert recorded(run) == [0, 1, 2, 3, 4]


def test_a_lock_that_is_taken_when_another_one_gives_it_back_keeps_the_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks for journals of killed processes would take that of a living one."""
    journal = tmp_path / "a.journal"
    looks, opens, looks_again = (lock_of(journal) for _ in range(3))
    looks.acquire()
    real = looks.release

    def released() -> None:
        real()
        opens.acquire()

    monkeypatch.setattr(looks, "release", released)
    release(looks)
    with pytest.raises(filelock.Timeout):
        looks_again.acquire()
    release(opens)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_leaves_no_journal(run: Run, journals: Journals, tmp_path: Path) -> None:
    writer = ShardWriter(run.folder, THERE, {**HEADER, "run": RUN}, seconds=60)
    writer.journal = journals.journal(RUN, "answer", "a")
    for number in range(3):
        writer.add(record(number))
        assert journals.recover(run, run.folder) == 0, "the process that writes it is alive"
        if number == 1:
            writer.close()
    writer.close()
    assert recorded(run) == [0, 1, 2]
    assert not [path for path in tmp_path.glob("journals/**/*") if path.is_file()]


def test_every_torn_journal_gives_the_records_that_are_whole(run: Run, journals: Journals, tmp_path: Path) -> None:
    killed(run, journals, 3)
    path = the_journal(tmp_path)
    whole = path.read_bytes()
    ends = [at + 1 for at, one in enumerate(whole) if one == ord("\n")]
    for length in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = sum(length >= end - 1 for end in ends[1:])
        assert len(read_journal(path)[1]) == complete
        path.write_bytes(whole[:length] + bytes(40))
        assert len(read_journal(path)[1]) <= complete
    path.write_bytes(whole.replace(b'"t/0"', b'"u/0"', 1))
    assert journals.recover(run, run.folder) == 2, "a damaged line is passed over, not taken"


def test_a_shard_that_was_being_written_is_completed(run: Run, journals: Journals, tmp_path: Path) -> None:
    killed(run, journals, 3)
    kept = the_journal(tmp_path).read_bytes()
    journals.recover(run, run.folder)
    (shard,) = (tmp_path / "folder").glob("runs/*/*/*/*/shard-*")
    whole = shard.read_bytes()
    for content in (whole[: len(whole) // 2], whole):
        shard.write_bytes(content)
        (tmp_path / "journals" / RUN / "answer" / "a.journal").write_bytes(kept)
        assert journals.recover(run, run.folder) == 3
        assert recorded(run) == [0, 1, 2]


@pytest.mark.parametrize(
    "what",
    [
        lambda kept: b"a foreign file\n",
        lambda kept: kept.split(b"\n", 1)[1],
        lambda kept: bytes(len(kept)),
    ],
)
def test_a_foreign_journal_is_told_and_left(
    run: Run, journals: Journals, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: object
) -> None:
    killed(run, journals, 2)
    path = the_journal(tmp_path)
    path.write_bytes(what(path.read_bytes()))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert journals.recover(run, run.folder) == 0
    assert "not the journal of a shard" in caplog.text
    assert path.exists()


def test_a_journal_of_another_run_or_with_hostile_records_makes_no_shard(
    run: Run, journals: Journals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed(run, journals, 2)
    path = the_journal(tmp_path)
    assert FORMAT in path.read_text()
    other = replace(run, id="s-0123456789ab")
    place = tmp_path / "journals" / other.id / "answer"
    place.mkdir(parents=True)
    path.rename(place / "a.journal")
    assert journals.recover(other, other.folder) == 0
    journal = journals.journal(RUN, "answer", "a")
    journal.add({**HEADER, "run": RUN, "seq": 0}, b'{"key":"no"}')
    os.link(path, tmp_path / "kept")
    journal.close()
    (tmp_path / "kept").rename(path)
    (place / "b.journal").symlink_to(path)
    assert journals.recover(run, run.folder) == journals.recover(other, other.folder) == 0
    assert caplog.text.count("passed over") == 4
    assert not list((tmp_path / "folder").glob("runs/*/*/*/*/shard-*"))


def test_where_no_journal_can_be_written_a_run_goes_on(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = ShardWriter(run.folder, THERE, {**HEADER, "run": RUN}, seconds=60)
    writer.journal = Journals(tmp_path / "file").journal(RUN, "answer", "a")
    writer.add(record(0))
    writer.add(record(1))
    writer.close()
    assert recorded(run) == [0, 1]
    assert caplog.text.count("a kill loses") == 1


def test_a_full_folder_keeps_the_records_in_the_journal(run: Run, journals: Journals) -> None:
    class Full(Disk):
        def write(self, path: str, data: bytes, *, heal: bool = False) -> None:
            raise Temporary("no room left")

    writer = ShardWriter(Full(Path()), THERE, {**HEADER, "run": RUN}, seconds=60, size=1)
    writer.journal = journals.journal(RUN, "answer", "a")
    for number in range(2):
        with pytest.raises(Temporary):
            writer.add(record(number))
    del writer
    assert journals.recover(run, run.folder) == 2

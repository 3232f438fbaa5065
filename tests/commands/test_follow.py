"""`hybrid run remote --wait`: it ends when there is nothing to wait for, and reports each change once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybrid.commands import follow as following
from hybrid.commands.follow import follow
from hybrid.errors import NotFinished
from hybrid.laptop.receiver import Receiver
from hybrid.machine import home
from tests.support.run_folder import FIRST, RunFolder

Act = Callable[[], object]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


@pytest.fixture
def followed(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Follow the run of `place`, call the next of `acts` between two readings, and return the output."""

    def run(*acts: Act) -> str:
        left: Iterator[Act] = iter(acts)
        monkeypatch.setattr("hybrid.commands.follow.time.sleep", lambda seconds: next(left)())
        follow(place.run, place.folder, place.root / "outputs.json", 1.0, None, as_json=False)
        return capsys.readouterr().err

    return run


def nothing() -> None:
    """Change nothing."""


def test_waiting_ends_with_the_run_and_reports_each_change_once(place: RunFolder, followed: Callable[..., str]) -> None:
    said = followed(
        nothing,
        lambda: place.beat(0),
        nothing,
        lambda: place.beat(1),
        lambda: place.shard(0, 1, 2, 3),
        nothing,
        lambda: place.shard(4, 5),
    )
    assert said.count("no worker has begun yet") == 1
    assert said.count(f"1 worker running ({FIRST}), 12 items/min, 120 tokens/s, about 30 s to go") == 1
    assert [line for line in said.splitlines() if "records in" in line] == [
        f"{place.run.id}: 0 records in 0 shards are new; 0 of 6 items are here",
        f"{place.run.id}: 4 records in 1 shard are new; 4 of 6 items are here",
        f"{place.run.id}: 2 records in 1 shard are new; 6 of 6 items are here",
    ]
    assert "no score yet over 0 of 6, so far" not in said.splitlines()[1], "nothing is here, so nothing is graded"


def test_waiting_ends_when_the_run_is_cancelled(place: RunFolder, followed: Callable[..., str]) -> None:
    place.shard(0)
    with pytest.raises(NotFinished, match=r"was cancelled by reader-00000001: 1 of 6 items is here") as stopped:
        followed(nothing, lambda: place.receiver().cancel())
    assert "the same command again undoes the cancel" in stopped.value.hint
    mine = Receiver(place.run, place.store, home.machine_name())
    mine.resume()
    mine.cancel()
    with pytest.raises(NotFinished, match="was cancelled by this machine"):
        followed()


def test_a_cancelled_run_that_is_done_counts_as_done(place: RunFolder, followed: Callable[..., str]) -> None:
    place.shard(*range(6))
    place.receiver().cancel()
    assert "6 of 6 items are here" in followed()


def test_skipped_files_and_an_unavailable_folder_are_reported_once(
    place: RunFolder, followed: Callable[..., str]
) -> None:
    away = place.root / "away"
    torn = place.folder / place.shard(0)
    torn.write_bytes(torn.read_bytes()[:40])
    said = followed(
        nothing,
        lambda: place.folder.rename(away),
        nothing,
        nothing,
        lambda: away.rename(place.folder),
        lambda: place.shard(*range(6), attempt=FIRST[:-1] + "2"),
    )
    assert said.count("waiting: ") == 1


def test_the_remaining_time_is_reported_again_after_a_while(
    place: RunFolder, followed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes(seconds: float) -> None:
        clock[0] += seconds

    clock = [1000.0]
    monkeypatch.setattr("hybrid.commands.follow.time.monotonic", lambda: clock[0])
    place.beat(0)
    faster = {"stage": "answer", "total": 6, "fresh": 4, "seconds": 10.0, "tokens_per_second": 99.0}
    said = followed(
        lambda: place.beat(1, progress=faster),
        lambda: passes(following.REPEAT_SECONDS),
        lambda: passes(following.REPEAT_SECONDS),
        lambda: place.shard(*range(6)),
    )
    assert said.count("to go") == 2
    assert said.count("99 tokens/s, about 15 s to go") == 1

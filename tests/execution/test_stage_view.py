"""One view of a stage: status, fetch and retry count the same, and what one has verified the others do not read."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.execution import item_keys
from hybrid.execution.index import Index
from hybrid.execution.stage_view import StageView, counted_once
from hybrid.execution.stage_work import StageWork
from hybrid.folder.shards import FORMAT, pack
from hybrid.laptop import remote_runs
from hybrid.machine import home
from hybrid.protocols import Stage
from hybrid.status.run_status import RunStatus, read_statuses
from hybrid.work import Ask, Derive
from tests.support.run_folder import FIRST, MODEL, SECOND, CountingDisk, RunFolder

LIKE = ("name", "model", "total", "done", "failed", "again", "missing", "left")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    return RunFolder(tmp_path)


def fetch(place: RunFolder) -> remote_runs.Fetched:
    return remote_runs.fetch(place.folder, place.run.id, place.root / "outputs.json")


def look(place: RunFolder, folder: CountingDisk) -> RunStatus:
    """What `hybrid status` tells, by the index of this machine."""
    with closing(Index(home.index_of(place.folder))) as index:
        (found,) = read_statuses(folder, place.store, index, None)
    return found


def counted(place: RunFolder) -> tuple[int | None, ...]:
    """Items, missing, failed and to be done again, as fetch, status and a worker tell them: it has to be the same."""
    done, found = fetch(place), look(place, CountingDisk(place.folder))
    counts = (done.items, done.missing, done.failed, done.again)
    (view,) = found.stages
    work = StageWork(place.run, place.stage, place.run.tasks(), MODEL)
    work.look(place.receiver().orders().set_aside)
    assert [getattr(work.view(), name) for name in LIKE] == [getattr(view, name) for name in LIKE]
    assert counts == (view.total, view.missing, view.failed + view.again, view.again)
    assert done.done == found.done
    return counts


def test_a_shard_without_records_holds_no_item(place: RunFolder) -> None:
    header = {"format": FORMAT, "version": 1, "run": place.run.id, "stage": "answer", "attempt": FIRST, "seq": 0}
    name, data = pack({**header, "model": {"name": "made-up", "digest": MODEL, "about": {}}}, [], 0)
    place.disk.write(f"{place.run.place}/answer/{FIRST}/{name.batch}/{name}", data)
    assert counted(place) == (6, 6, 0, 0)


def test_status_fetch_and_retry_count_the_same(place: RunFolder) -> None:
    assert counted(place) == (6, 6, 0, 0)
    place.shard(0, 1)
    place.shard(0, error="engine")  # an answer wins
    twice = [place.shard(2, 3, error="engine"), place.shard(3, 4, error="other")]
    place.shard(5, key="e" * 64)  # of no item
    assert counted(place) == (6, 1, 3, 0)
    assert remote_runs.retry(place.folder, place.run.id)[1] == 3
    assert place.receiver().orders().set_aside == set(twice)
    assert counted(place) == (6, 1, 3, 3)
    assert remote_runs.retry(place.folder, place.run.id)[1] == 3  # it is on its way already
    place.shard(2, 5, attempt=SECOND)
    place.shard(3, attempt=SECOND, error="engine")
    assert counted(place) == (6, 0, 2, 1)
    assert remote_runs.retry(place.folder, place.run.id)[1] == 1
    place.shard(3, 4, attempt=SECOND)
    assert counted(place) == (6, 0, 0, 0)


def test_what_was_fetched_is_not_read_again_and_its_items_are_listed_once(
    place: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shard(0, 1)
    place.shard(2, error="engine")
    fetch(place)
    monkeypatch.setattr(item_keys, "parts_of", lambda *_: pytest.fail("listed again"))
    folder = CountingDisk(place.folder)
    assert look(place, folder).sum("done") == 3
    assert [path for path in folder.paths if "/shard-" in path] == []
    assert remote_runs.retry(place.folder, place.run.id)[1] == 1
    assert fetch(place).again == 1


def test_a_failure_counts_in_the_stage_where_it_happened() -> None:
    stages = (
        Stage("answer", "gpu", 1, Ask(list)),
        Stage("again", "gpu", 1, Ask(list), after=("answer",)),
        Stage("sum", "any", 1, Derive(list), after=("again",)),
    )

    def own(*reasons: dict[str, int], again: int = 0) -> list[int]:
        failed = [StageView("", failed=sum(one.values()), reasons=one) for one in reasons]
        views = [replace(view, name=stage.name) for view, stage in zip(failed, stages, strict=True)]
        views[0] = replace(views[0], again=again)
        return [view.own_failures for view in counted_once(views, stages)]

    assert own({"engine": 2}, {"engine": 1}, {"engine": 3}) == [2, 1, 0], "both models failed"
    assert own({"training": 1}, {}, {"training": 4}) == [1, 0, 0], "one training, four texts that lack it"
    assert own({"engine": 1}, {}, {"engine": 1, "no grid": 2}) == [1, 0, 2], "some failed in no earlier stage"
    assert own({}, {}, {"engine": 1}, again=1) == [0, 0, 0], "it is just being done again"

"""Workers of one machine on one search, step by step: no order of claims, answers and looks asks for an item twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.execution.search_work import SearchWork
from hybrid.execution.stage_session import place_of, shard_writer
from hybrid.folder.leases import BeatMonitor, LeaseTimeouts
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.shards import ShardWriter
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Inputs, Model, Stage
from hybrid.records import Completion, Item, Request, Sampling
from hybrid.work import Search, Walk
from hybrid.worker.siblings import PlaceClaims, Siblings
from tests.support.manual_clock import ManualClock

ITEMS = 4
MODEL = Model("script", "0" * 64, 0, {})
CLOCK = ManualClock()


def walk(task: str, tasks: object) -> Walk:
    for number in range(ITEMS):
        yield [Item(task, f"{task}/{number}", Request(Sampling(10), prompt=f"{number}"))]


@dataclass
class At:
    """One worker of the machine on the search."""

    siblings: Siblings
    work: SearchWork
    writer: ShardWriter
    asked: list[str] = field(default_factory=list)

    def others(self) -> Any:
        return self.work.others(BeatMonitor(CLOCK), LeaseTimeouts())

    def answer(self, most: int = ITEMS) -> None:
        """Answer what this worker is to answer, and close the shard."""
        begun: list[None] = []
        for request in self.work.requests(lambda: self.others() if len(begun) < most else None):
            if request:
                begun.append(None)
                self.asked.append(request.key)
                self.writer.add(self.work.answered(Completion(request.key, text="yes", finish="stop")))
        self.writer.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = join_folder(tmp_path / "folder", make=True)
    made = submit(folder, "any", {}, Inputs({"t": {}}, {}, {}), {"": ModelSpec("scripted", "script", MODEL.digest)})
    return Run(made.id, made.spec, folder, (Disk(tmp_path / "spool"), folder))


@pytest.fixture
def two(run: Run, tmp_path: Path) -> Iterator[tuple[At, At]]:
    """Two workers that have read the records. Neither knows of the other: both still load their models."""
    found = []
    for attempt in ("a-1", "b-2"):
        siblings = Siblings(tmp_path / "claims", attempt, CLOCK, lambda attempt: False)
        work = SearchWork(run, Stage("search", "any", 1, Search(walk)), run.tasks(), {"": MODEL.digest}, attempt)
        work.claims = siblings.of(place_of(work))
        work.look()
        engine: Any = SimpleNamespace(model=MODEL)
        found.append(At(siblings, work, shard_writer(work, engine, run.sources[0], attempt, None, seconds=60.0)))
    yield found[0], found[1]
    for one in found:
        one.siblings.close()


def test_who_comes_late_asks_nothing_that_was_answered_since_it_read_the_records(two: tuple[At, At]) -> None:
    early, late = two
    early.answer(2)
    early.writer.close()
    late.answer()
    assert (len(early.asked), late.asked) == (2, []), "the answer may be where it has not looked yet"
    late.work.look()
    late.answer()
    assert len(late.asked) == ITEMS - 2
    early.work.look()
    assert early.work.left == late.work.left == 0


def test_who_chose_an_item_before_it_was_answered_does_not_ask_it(
    two: tuple[At, At], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system stops it just there, and when it goes on another thread of its has read the records anew."""
    early, late = two
    take = PlaceClaims.take

    def after_a_pause(claims: PlaceClaims, block: int) -> bool:
        if claims is late.work.claims and not early.asked:
            early.answer(2)
            late.work.look()
        return take(claims, block)

    monkeypatch.setattr(PlaceClaims, "take", after_a_pause)
    late.answer()
    assert not set(early.asked) & set(late.asked)
    assert len(early.asked) + len(late.asked) == ITEMS
    assert late.work.left == 0


def test_what_was_not_answered_is_asked_by_the_other(two: tuple[At, At]) -> None:
    early, late = two
    begun = early.work.requests(early.others)
    assert next(begun)
    late.answer()
    assert late.asked == [], "it is held"
    early.work.give_up()
    late.answer()
    assert late.asked == [], "its record may be there"
    late.work.look()
    late.answer()
    assert len(late.asked) == ITEMS

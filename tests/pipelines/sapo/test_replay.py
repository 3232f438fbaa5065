"""Training sets that are made again from what was published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from hybrid.canonical import encode
from hybrid.errors import BadData
from hybrid.loops import Segment
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Replayed
from pipelines.sapo.arrivals import unpack
from pipelines.sapo.loop import loop
from pipelines.sapo.pipeline import Sapo
from pipelines.sapo.replay import replay
from pipelines.sapo.rollouts import pack
from tests.support.published import Folder
from tests.support.table_policies import TableLab

SMALL: dict[str, Any] = {
    "arms": ("2-2",), "tasks": ("basic_arithmetic",), "level": "easy", "nodes": 3, "rounds": 4, "group": 4,
    "max_tokens": 6, "learning_rate": 1e-3, "eval_every": 0, "publish_every": 3, "shortfall": "own", "max_age": 1,
    "foreign": "uniform",
}  # fmt: skip


@dataclasses.dataclass
class Ran:
    """Rounds that were computed, by series, and what was published."""

    settings: Sapo
    folder: Folder
    rounds: dict[str, list[RoundMetrics]]

    def replay(self, series: str, round: int, group: str, read: Any = None) -> Replayed:
        tasks = dict(self.settings._named())
        read = read or self.folder.reader().read
        return replay(self.settings, tasks[series], series, self.rounds[series][round], group, read)


def ran(**more: Any) -> Ran:
    settings, folder = Sapo(**(SMALL | more)), Folder()
    loops = {}
    for one in settings._series(dict(settings._named())):
        loops[one.name] = loop(settings, one, TableLab())  # type: ignore[arg-type]
        loops[one.name].publish_to(folder.reader())  # type: ignore[attr-defined]
    made = Ran(settings, folder, {name: [] for name in loops})
    for number in range(settings.rounds):
        for name, one in loops.items():
            made.rounds[name].append(one.round(number))
    return made


@pytest.fixture(scope="module")
def memory() -> Ran:
    return ran()


@pytest.fixture(scope="module")
def nodes() -> Ran:
    return ran(exchange="folder", barrier="async", publish_every=10)


ALONE = {"max_age": 0, "foreign": "uniform-nonzero", "shortfall": "short"}


@pytest.mark.parametrize(("arm", "more"), [("2-2", {}), ("4-0", ALONE), ("filter-only-2-2", {"shortfall": "short"})])
def test_every_training_set_of_a_swarm_comes_back_to_the_bit(arm: str, more: dict[str, Any]) -> None:
    made = ran(arms=(arm,), **more)
    for metrics in made.rounds[f"{arm}/seed-0"]:
        for group, note in metrics.notes.items():
            found = made.replay(f"{arm}/seed-0", metrics.round, group)
            assert (found.missing, found.wrong) == ([], [])
            assert found.value["set"] == note["set"]  # type: ignore[index,call-overload]
            assert found.value["matches"]  # type: ignore[index,call-overload]


def test_every_training_set_of_nodes_in_a_folder_comes_back_to_the_bit(nodes: Ran) -> None:
    foreign = 0
    for node in range(3):
        for metrics in nodes.rounds[f"2-2/seed-0/node-{node}"]:
            found = nodes.replay(f"2-2/seed-0/node-{node}", metrics.round, f"node-{node}")
            assert found.value["matches"]  # type: ignore[index,call-overload]
            foreign += sum(not one["own"] for one in found.value["groups"])  # type: ignore[index,call-overload]
    assert foreign > 3


def test_what_is_missing_is_named_and_the_rest_is_shown(memory: Ran) -> None:
    found = memory.replay(
        "2-2/seed-0", 3, "node-1", lambda name, number: memory.folder.reader().read(name, 1) if number else []
    )
    note = memory.rounds["2-2/seed-0"][3].notes["node-1"]
    gone = [one for one in note["used"] if one[1] < 3]  # type: ignore[index,call-overload]
    assert gone, "no rollout of an earlier round was chosen"
    assert len(found.missing) == len(gone)
    assert found.missing[0].startswith(f"the rollout of node-{gone[0][0]}, round {gone[0][1]}, slot {gone[0][2]}")
    assert "of the segment 2-2-seed-0 0" in found.missing[0]
    assert not found.wrong
    assert len(found.value["groups"]) == len(note["used"]) - len(gone)  # type: ignore[index,call-overload,arg-type]


def test_a_segment_that_somebody_has_changed_is_not_taken_for_what_was_trained(memory: Ran) -> None:
    def read(name: str, number: int) -> Sequence[Segment]:
        return [one._replace(data=changed(memory, one.data)) for one in memory.folder.reader().read(name, number)]

    found = memory.replay("2-2/seed-0", 0, "node-0", read)
    assert found.missing
    assert all(one.endswith("another is in its place") for one in found.missing)
    assert not found.value["matches"]  # type: ignore[index,call-overload]


def changed(of: Ran, data: bytes) -> bytes:
    """A segment with one letter more in each answer."""
    made = loop(of.settings, next(of.settings._series(dict(of.settings._named()))), TableLab())  # type: ignore[arg-type]
    batches = unpack(data, made.expected()).batches  # type: ignore[attr-defined]
    for batch in batches:
        for one in batch.rollouts:
            answers = tuple(answer._replace(text=answer.text + "x") for answer in one.answers)
            object.__setattr__(one, "answers", answers)
    return pack(batches)


def test_a_record_that_somebody_has_changed_is_told(memory: Ran) -> None:
    metrics = memory.rounds["2-2/seed-0"][0]
    note: Any = {**metrics.notes["node-0"]}  # type: ignore[dict-item]
    for change, words in (
        ({"used": [[*one[:4], [7, 7, 7, 7]] for one in note["used"]]}, "the record says 0.0007"),
        ({"set": "0" * 64}, "the digest of the training set is"),
        ({"used": note["used"][::-1]}, "the digest of the training set is"),
    ):
        other = RoundMetrics(0, {}, {}, {"node-0": note | change})
        tasks = dict(memory.settings._named())
        found = replay(memory.settings, tasks["2-2/seed-0"], "2-2/seed-0", other, "node-0", memory.folder.reader().read)
        assert any(words in one for one in found.wrong)


@pytest.mark.parametrize("note", [None, {}, [], {"used": 7}, {"used": [[1]], "wanted": 1, "seed": 1, "pool": 1}])
def test_notes_of_something_else_are_refused(memory: Ran, note: Any) -> None:
    tasks = dict(memory.settings._named())
    metrics = RoundMetrics(0, {}, {}, {"node-0": note})
    with pytest.raises(BadData, match="ledger"):
        replay(memory.settings, tasks["2-2/seed-0"], "2-2/seed-0", metrics, "node-0", lambda name, number: [])
    with pytest.raises(BadData, match="none of its 3 nodes"):
        replay(memory.settings, tasks["2-2/seed-0"], "2-2/seed-0", metrics, "node-9", lambda name, number: [])


def test_people_see_questions_rewards_and_texts(memory: Ran) -> None:
    found = memory.replay("2-2/seed-0", 1, "node-2")
    text = "\n".join(found.lines)
    assert "round 1 of node-2: " in text
    assert text.count("question:") == len(found.value["groups"])  # type: ignore[index,call-overload,arg-type]
    assert "<answer>" in text
    encode(found.value)

"""Loops that publish: rounds that wait for what others publish, costs beside the text, and machines that die."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybrid.errors import BadData, NotFinished
from hybrid.execution import rounds_work
from hybrid.execution.local import Engine, run_here
from hybrid.execution.loop_state import DoneRound, LoopState
from hybrid.folder.segments import verify_segment
from hybrid.metrics import RoundMetrics, costs_of
from hybrid.progress import SilentProgress
from tests.support.publishing_loop import MODULE

NODES, ROUNDS = 4, 6


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin as a module."""
    module = ModuleType("meeting")
    monkeypatch.setitem(__import__("sys").modules, "meeting", module)
    exec(MODULE, module.__dict__)  # noqa: S102 - our own text
    return module


def run(module: ModuleType, folder: Path, **settings: int) -> list[dict[str, Any]]:
    """The records of the run, executed here."""
    engine = Engine("none", "none", {"checkpoint": "1000"})
    done = run_here(folder, "meeting", module.Meeting(**settings), {"": engine}, SilentProgress())
    assert done.failed == 0
    found: list[dict[str, Any]] = json.loads(done.outputs.read_text())["records"]
    return found


def used(records: list[dict[str, Any]]) -> dict[tuple[str, int], list[str]]:
    """The ids of the segments that each round used."""
    texts = [(one["task"], RoundMetrics.from_text(one["text"])) for one in records]
    return {(task, text.round): text.notes["used"] for task, text in texts}


def test_nodes_on_one_machine_meet_in_the_folder_in_every_round(meeting: ModuleType, tmp_path: Path) -> None:
    records = run(meeting, tmp_path / "folder", quorum=NODES)
    assert len(records) == NODES * ROUNDS
    assert {RoundMetrics.from_text(one["text"]).metrics["value"] for one in records} == {1.5}
    files = list((tmp_path / "folder").glob("runs/*/segments/*/*/*/segment-*"))
    assert len(files) == NODES * ROUNDS
    found = [verify_segment(str(one.relative_to(tmp_path / "folder")), one.read_bytes()) for one in files]
    for number in range(ROUNDS):
        ids = sorted(one.id for one in found if one.number == number)
        assert all(used(records)[f"node-{node}", number] == ids for node in range(NODES))
    costs = [costs_of(one["trained"])[one["task"]]["wait_seconds"] for one in records]
    assert all(seconds >= 0 for seconds in costs)
    assert "wait_seconds" not in records[0]["text"]


def test_killed_in_any_round_nothing_is_read_twice_or_lost(
    meeting: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died, round_ = set[tuple[str, int]](), meeting.Node.round

    def dying(self: Any, number: int) -> RoundMetrics:
        done: RoundMetrics = round_(self, number)
        if number in (1, 4) and (self.name, number) not in died:
            died.add((self.name, number))
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(meeting.Node, "round", dying)
    monkeypatch.setattr(rounds_work, "PATIENCE", 0.0)
    monkeypatch.setattr(rounds_work, "PAUSE", 0.0)
    monkeypatch.setattr("hybrid.execution.stage_session.TICK", 0.01)
    for most_open in (1, 16) * NODES:
        monkeypatch.setattr(rounds_work, "MOST_OPEN", most_open)
        with pytest.raises(NotFinished):
            run(meeting, tmp_path / "folder", quorum=NODES)
    records = run(meeting, tmp_path / "folder", quorum=NODES)
    assert len(died) == 2 * NODES
    for ids in used(records).values():
        assert len(ids) == len(set(ids)) == NODES
    assert len(list((tmp_path / "folder").glob("runs/*/segments/*/*/*/segment-*"))) == NODES * ROUNDS


def test_a_state_keeps_costs_and_states_of_before_still_load() -> None:
    text = RoundMetrics(0, {"loss": 1.0}).to_text()
    plain = LoopState([DoneRound(text, 2.0)], b"weights")
    assert plain.pack().startswith(b'{"format":"hybrid/loop","rounds":[[')
    assert b'"version":1}\n' in plain.pack()
    assert LoopState.read(plain.pack(), 3) == plain
    costly = LoopState([DoneRound(text, 2.0, {"node-3": {"train_seconds": 0.5}, "": {"peak_bytes": 7}})], b"weights")
    assert b'"version":2}\n' in costly.pack()
    assert LoopState.read(costly.pack(), 3) == costly
    for wrong in (b'"x"', b"[]", b'{"a":1}', b'{"a":{"b":"c"}}', b'{"a":{"b":null}}'):
        with pytest.raises(BadData, match="state of a loop"):
            LoopState.read(costly.pack().replace(b'{"":{"peak_bytes":7},"node-3":{"train_seconds":0.5}}', wrong), 3)


def test_costs_that_are_none_are_none() -> None:
    assert costs_of({"costs": {"": {"seconds": 1.5}}}) == {"": {"seconds": 1.5}}
    for trained in ({}, {"costs": 3}, {"costs": {"a": {"b": "c"}}}, {"costs": {"a": [1]}}, {"costs": None}):
        assert costs_of(trained) == {}
    with pytest.raises(ValueError, match="costs"):
        RoundMetrics(0, costs={"": {"seconds": float("nan")}})

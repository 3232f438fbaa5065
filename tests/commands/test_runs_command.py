"""`hybrid runs`: every run on one line, with its scores and the place of its outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybrid.grading.scores import scores_of
from tests.support.graded_runs import graded_run
from tests.support.in_process import Hybrid
from tests.support.run_folder import SECOND, RunFolder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    made = RunFolder(tmp_path)
    monkeypatch.setenv("HYBRID_FOLDER", str(made.folder))
    return made


def test_a_run_is_listed_with_items_time_scores_and_outputs(place: RunFolder, hybrid: Hybrid) -> None:
    (before,) = hybrid("runs").stdout.splitlines()
    assert before.split("  ") == [place.run.id, "scripted/made-up", "0 of 6", "", "not begun", "no outputs here"]
    place.shard(0, 1, 2, 3, 4)
    place.shard(5, error="too-long", attempt=SECOND)
    outputs = hybrid("fetch", place.run.id).stdout.strip()
    assert hybrid("grade", outputs).code == hybrid("grade", outputs, "--grader", "exact").code == 0
    done = hybrid("runs", "--json")
    found = json.loads(done.stdout)
    assert (done.code, found["done"], found["total"], found["failed"]) == (0, 6, 6, 1)
    assert (found["begun"], found["outputs"]) == ("2026-01-02T00:00:00+00:00", outputs)
    assert [one["grader"] for one in found["scores"]] == ["arc", "exact"]
    summary = json.loads(hybrid("grade", outputs, "--json").stdout)["summary"]
    assert [found["scores"][0][name] for name in ("score", "interval", "n", "unit")] == [
        summary[name] for name in ("score", "interval", "n", "unit")
    ]
    (line,) = hybrid("runs").stdout.splitlines()
    assert "6 of 6, 1 failed" in line
    assert line.endswith(outputs)


def test_grades_of_other_outputs_are_marked(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    hybrid("fetch", place.run.id)
    hybrid("grade", place.run.id)
    place.shard(2, 3)
    hybrid("fetch", place.run.id)
    assert "of other outputs" in hybrid("runs").stdout


def test_forgotten_runs_are_hidden_and_a_damaged_one_is_named(place: RunFolder, hybrid: Hybrid) -> None:
    hybrid("forget", place.run.id)
    none = hybrid("runs")
    assert (none.code, none.stdout, "no run" in none.stderr) == (0, "", True)
    assert place.run.id in hybrid("runs", "--all").stdout
    (place.folder / place.run.place / "run.json").write_text("{}")
    damaged = hybrid("runs", "--all")
    assert (damaged.code, "not a run of hybrid" in damaged.stdout) == (6, True)
    assert hybrid("runs", "--folder", place.root / "nowhere").code == 5


def test_scores_come_from_the_end_of_grades_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    outputs = graded_run(tmp_path)
    (found,) = scores_of(outputs)
    assert (found.grader, found.n, found.unit, found.stale) == ("exact", 3, "question", False)
    assert found.score == pytest.approx(2 / 3)
    grades = outputs.parent / "grades.exact.json"
    whole = grades.read_bytes()
    for damaged in (whole[:-200], b"", b"\xff" * 3000, whole.replace(b'"score":0.', b'"score":"x')):
        grades.write_bytes(damaged)
        assert scores_of(outputs) == []
    assert scores_of(tmp_path / "away" / "outputs.json") == []

"""`hybrid runs`: every run on one line, with its scores and the place of its outputs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

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


def test_a_run_without_a_language_model_says_so(place: RunFolder, hybrid: Hybrid) -> None:
    made = hybrid("run", "remote", "cvfp", "--set", "variants=unigram", "--set", "documents=5")
    assert made.code == 0, made.stderr
    line = next(line for line in hybrid("runs").stdout.splitlines() if line.startswith("cvfp-"))
    assert re.search(r"  no language model  +0 of 1  ", line), line


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


def test_outputs_that_somebody_put_elsewhere_are_found_with_their_grades(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    usual = Path(hybrid("fetch", place.run.id).stdout.strip())
    named = place.root / "elsewhere" / "mine.json"
    hybrid("fetch", place.run.id, "-o", named)
    os.utime(usual, (1, 1))
    hybrid("grade", named, "--grader", "exact")
    found = json.loads(hybrid("runs", "--json").stdout)
    assert (found["outputs"], [one["grader"] for one in found["scores"]]) == (str(named), ["exact"])
    named.write_text('{"format":"hybrid/outputs","version":1,\n"run":{"id":"another"}')
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] == str(usual), "another run's file took the place"
    named.unlink()
    (note,) = (place.root / "home" / "outputs").glob("*/*.json")
    note.write_bytes(b"{")
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] == str(usual)


def test_outputs_under_a_name_that_is_no_text_are_written_and_not_found_again(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    usual, named = hybrid("fetch", place.run.id).stdout.strip(), place.root / os.fsdecode(b"\xff.json")
    assert hybrid("fetch", place.run.id, "-o", named).code == 4
    assert named.is_file()
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] == usual


def test_what_is_no_file_at_the_place_of_outputs_or_grades_is_passed_over(place: RunFolder, hybrid: Hybrid) -> None:
    place.shard(0, 1)
    usual = Path(hybrid("fetch", place.run.id).stdout.strip())
    named = place.root / "mine.json"
    hybrid("fetch", place.run.id, "-o", named)
    hybrid("grade", usual, "--grader", "exact")
    named.unlink()
    os.mkfifo(named)  # to open one waits for a writer
    os.mkfifo(usual.parent / "grades.arc.json")
    found = json.loads(hybrid("runs", "--json").stdout)
    assert (found["outputs"], [one["grader"] for one in found["scores"]]) == (str(usual), ["exact"])
    named.unlink()
    named.symlink_to(named)
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] == str(usual)


def test_outputs_that_vanish_while_they_are_looked_at_are_not_there(
    place: RunFolder, hybrid: Hybrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shard(0, 1)
    usual = hybrid("fetch", place.run.id).stdout.strip()
    hybrid("fetch", place.run.id, "-o", place.root / "mine.json")
    opened = Path.open

    def open_once(path: Path, *how: Any, **more: Any) -> Any:
        found = opened(path, *how, **more)
        if path.name == "mine.json":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "open", open_once)
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] in (usual, str(place.root / "mine.json"))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command of one item, run from an empty folder by somebody who has joined none."""
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"answers": {}, "default": "Paris"}))
    return ["run", "local", "prompts", "--limit", "1", "--backend", "scripted", "--model", str(script)]


def test_a_run_here_says_that_it_goes_into_the_folder_of_init_and_its_outputs_are_found(
    tmp_path: Path, hybrid: Hybrid, asked: list[str]
) -> None:
    assert hybrid("init", "shared").code == 0
    done = hybrid(*asked, "-o", "mine.json")
    words = f"goes into the folder of `hybrid init`, {tmp_path / 'shared'}; --folder names another"
    assert (done.code, words in done.stderr) == (0, True), done.stderr
    assert json.loads(hybrid("runs", "--json").stdout)["outputs"] == str(tmp_path / "mine.json")
    assert words not in hybrid(*asked, "--folder", "own", "-o", "other.json").stderr


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "other files"])
def test_a_run_here_makes_no_second_folder_where_that_of_init_is_away(
    tmp_path: Path, hybrid: Hybrid, asked: list[str], left: str
) -> None:
    mount, away = tmp_path / "mount" / "shared", tmp_path / "away"
    assert hybrid("init", str(mount)).code == 0
    mount.parent.rename(away)
    if left != "nothing":
        mount.mkdir(parents=True)
    if left == "other files":
        (mount / "README.txt").write_text("mine")
    before = sorted(mount.parent.rglob("*"))
    for named in ([], ["--folder", str(mount)], ["--folder", "mount/shared"]):
        done = hybrid(*asked, *named)
        assert (done.code, "is not a folder of hybrid, or not now" in done.stderr) == (5, True), done.stderr
        assert sorted(mount.parent.rglob("*")) == before
    assert hybrid(*asked, "--folder", "own").code == 0
    if mount.parent.exists():
        mount.parent.rename(tmp_path / "was below it")
    away.rename(mount.parent)
    assert hybrid(*asked).code == 0
    (tmp_path / "home" / "joined.json").write_text("damaged")
    assert [hybrid(*asked).code, hybrid(*asked, "--folder", "own").code] == [6, 0]

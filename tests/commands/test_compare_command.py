"""`hybrid judge compare`: runs of the same questions become arms of one file, which is judged in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

from hybrid.grading.compared import Source, write_compared
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Failure, Output
from tests.support.in_process import Hybrid

JUDGE = ("--backend", "scripted", "--model", "judge.json")


def output(number: int, text: str | None, **view: Any) -> Output:
    error = None if text is not None else Failure("missing", "not there yet")
    name = f"t{number % 3}"
    return Output(f"k{number}", name, f"{name}/{number}", {"question": f"Q {number}?", **view}, 0, text, error, None)


def lines(path: Path, *outputs: Output) -> Path:
    path.write_text("".join(json.dumps(one.to_json()) + "\n" for one in outputs))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    script = {"answers": {}, "default": '{"reason": "so", "better": "A"}', "context": 1 << 20}
    (tmp_path / "judge.json").write_text(json.dumps(script))
    return tmp_path


def test_runs_in_any_order_become_arms_of_one_file_that_is_judged_and_drawn(place: Path, hybrid: Hybrid) -> None:
    lines(place / "one.jsonl", *(output(n, f"one {n}") for n in range(7)))
    tasks = {f"t{n}": {"title": f"Task {n}"} for n in range(3)}
    (place / "run").mkdir()
    write_outputs(
        place / "run" / "outputs.json", {"id": "r-1"}, [], tasks, [output(n, f"two {n}") for n in range(4, 0, -1)]
    )
    done = hybrid("judge", "compare", "one.jsonl", "run/outputs.json", "again=one.jsonl", *JUDGE)
    assert done.code == 0, done.stderr
    assert "one against run" in done.stdout
    compared = open_outputs(place / "compared.json")
    records = list(compared.records())
    assert [(one.task, one.question) for one in records] == sorted((one.task, one.question) for one in records)
    assert len({one.key for one in records}) == 7 + 4 + 7
    assert {one.view["arm"] for one in records} == {"one", "run", "again"}
    assert compared.tasks["t1"] == {"title": "Task 1"}
    assert compared.run["about"]["sources"][1]["run"] == "r-1"
    summary = json.loads((place / "compared.grades.pairwise.json").read_text())["summary"]
    assert summary["judge"]["counts"]["pairs"] == 4 * 3 + 3
    assert summary["judge"]["counts"]["equal answers"] == 7
    first = (place / "compared.json").read_bytes()
    assert hybrid("judge", "compare", "one.jsonl", "run/outputs.json", "again=one.jsonl", *JUDGE, "--json").code == 0
    assert (place / "compared.json").read_bytes() == first
    assert hybrid("report", "compared.json", "-o", "page.html").code == 0
    assert hybrid("grade", "compared.json", *JUDGE).code == 0  # it names its grader


def test_arms_of_a_run_keep_their_names_below_that_of_the_run(place: Path) -> None:
    old = lines(place / "old.jsonl", output(1, "a", arm="x"), output(2, "b", arm="y"))
    new = lines(place / "new.jsonl", output(1, "c"))
    runs = {"id": "r", "about": {"arms": ["x", "y"]}}
    write_outputs(place / "of-arms.json", runs, [], {}, [output(1, "a", arm="x"), output(2, "b", arm="y")])
    write_compared(
        [Source("of", open_outputs(place / "of-arms.json")), Source("new", open_outputs(new))], place / "a.json"
    )
    assert open_outputs(place / "a.json").run["about"]["arms"] == ["of/x", "of/y", "new"]
    write_compared([Source("old", open_outputs(old)), Source("new", open_outputs(new))], place / "all.json")
    found = {one.text: one.view["arm"] for one in open_outputs(place / "all.json").records()}
    assert found == {"a": "old/x", "b": "old/y", "c": "new"}


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(place: Path, hybrid: Hybrid) -> None:
    lines(place / "one.jsonl", output(1, "a"))
    lines(place / "other.jsonl", output(2, "b"))
    lines(place / "mine-too.json", output(1, "a"))
    (place / "mine.json").write_text("my own notes")
    for arguments, told, code in (
        (["one.jsonl"], "two runs or more", 2),
        (["one.jsonl", "other.jsonl"], "no question in common", 2),
        (["one.jsonl", "a=mine-too.json", "-o", "mine-too.json"], "would be overwritten", 2),
        (["one.jsonl", "a=one.jsonl", "-o", "mine.json"], "mine.json", 2),
        (["one.jsonl", "nowhere.jsonl"], "no file 'nowhere.jsonl'", 2),
        (["one.jsonl", "a=one.jsonl", "-o", "-"], "go to a file", 2),
    ):
        done = hybrid("judge", "compare", *arguments, *JUDGE)
        assert (done.code, told in done.stderr) == (code, True), done.stderr
    assert not (place / "compared.json").exists()
    assert (place / "mine.json").read_text() == "my own notes"


def test_a_run_that_is_not_finished_is_compared_as_far_as_it_is(place: Path, hybrid: Hybrid) -> None:
    lines(place / "one.jsonl", output(1, "a"), output(2, "b"))
    lines(place / "other.jsonl", output(1, "c"), output(2, None))
    done = hybrid("judge", "compare", "one.jsonl", "other.jsonl", *JUDGE)
    assert done.code == 4
    assert "1 output is missing, and not compared" in done.stderr
    summary = json.loads((place / "compared.grades.pairwise.json").read_text())["summary"]
    assert (summary["n"], summary["ungraded"]["count"]) == (1, 1)


def test_a_damaged_run_is_told_before_anything_is_written(place: Path, hybrid: Hybrid) -> None:
    write_outputs(place / "one.json", {"id": "r"}, [], {}, [output(1, "a"), output(2, "b")])
    (place / "one.json").write_text((place / "one.json").read_text().replace('"text":"b"', '"text":"c"'))
    lines(place / "other.jsonl", output(1, "c"))
    done = hybrid("judge", "compare", "one.json", "other.jsonl", *JUDGE)
    assert done.code == 6
    assert not (place / "compared.json").exists()

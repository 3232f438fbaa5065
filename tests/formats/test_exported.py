"""What hybrid exported is graded again as what it was: the same questions, samples and arms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.formats.exported import in_metadata, is_table_row
from hybrid.formats.opening import open_any
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from tests.support.in_process import Hybrid

ARMS = ("usual", "short")


def outputs_in(folder: Path, arms: tuple[str, ...]) -> Path:
    """Two tasks with two questions each, three samples of every arm; one sample failed."""
    records = []
    for number in range(4):
        task, question = f"t{number // 2}", f"t{number // 2}/q{number}"
        for arm in arms:
            for sample in range(3):
                right = (number + sample + len(arm)) % 2 == 0
                text: str | None = "=Rome, Italy" if right else "Oslo"
                failed = Failure("too-long", "1,025 tokens") if number == sample == 0 and arm == arms[0] else None
                view = {"question": "Where?", **({"arm": arm} if arm else {})}
                text = None if failed else text
                key = f"{question}{arm}{sample}"
                records.append(Output(key, task, question, view, sample, text, failed, ["Rome", "Roma"]))
    about = {"grader": "contains", **({"arms": list(arms)} if arms[0] else {})}
    path = folder / "outputs.json"
    write_outputs(path, {"id": "r", "pipeline": "prompts", "about": about}, [], {}, records)
    return path


def summary_of(hybrid: Hybrid, path: Path, grades: Path) -> dict[str, Any]:
    done = hybrid("grade", path, "--grader", "contains", "-o", grades)
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(grades.read_text())["summary"]
    return found


@pytest.mark.parametrize("arms", [ARMS, ("",)], ids=["arms", "no arms"])
@pytest.mark.parametrize("to", ["csv", "parquet", "inspect", "jsonl"])
def test_an_export_is_graded_as_the_run_was(hybrid: Hybrid, tmp_path: Path, to: str, arms: tuple[str, ...]) -> None:
    path = outputs_in(tmp_path, arms)
    before = summary_of(hybrid, path, tmp_path / "grades.contains.json")
    exported = tmp_path / {"inspect": "x.eval"}.get(to, f"x.{to}")
    assert hybrid("export", path, "--to", to, "--grader", "contains", "-o", exported).code == 0
    after = summary_of(hybrid, exported, tmp_path / "after.json")
    if arms[0]:  # a file without a head names no order of its arms
        assert (after["arms"], before["arms"]) == (sorted(arms), list(arms))
        scores = {"usual": before["score"], "short": before["controls"]["short"]["score"]}
        assert (after["score"], after["controls"]["usual"]["score"]) == (scores["short"], scores["usual"])
        assert after["n"] == before["n"]
    else:
        assert (after["score"], after["n"], after["interval"]) == (before["score"], before["n"], before["interval"])
        assert after["figures"] == before["figures"]


@pytest.mark.parametrize("to", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("text", ["=1+1", "'quoted", "+49", "[1, 2]", '{"a": 1}', "a,b\nc", "1"])
def test_texts_come_back_to_the_letter(hybrid: Hybrid, tmp_path: Path, text: str, to: str) -> None:
    view = {"question": text}
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "r"}, [], {}, [Output("k", "t", "q", view, 0, text, None, text)])
    assert hybrid("grade", path, "--grader", "exact").code == 0
    exported = tmp_path / f"x.{to}"
    assert hybrid("export", path, "--to", to, "-o", exported).code == 0
    (found,) = open_any(exported).records()
    assert (found.text, found.view, found.task, found.question, found.key) == (text, view, "t", "q", "k")


def test_a_table_of_others_with_some_of_our_columns_is_theirs() -> None:
    assert not is_table_row({"text": "a", "question": "b", "score": 1})
    assert in_metadata({"task": "t", "question": "q", "key": "k", "view": "no object"}) is None
    assert in_metadata({"task": "t", "question": "", "key": "k", "view": {}}) is None
    assert in_metadata(None) is None


def test_a_score_in_a_table_needs_no_option(hybrid: Hybrid, tmp_path: Path) -> None:
    path = tmp_path / "scored.csv"
    path.write_text("id,text,score\na,Rome,1\nb,Oslo,0.5\n")
    done = hybrid("grade", path)
    assert done.code == 0, done.stderr
    assert "0.7500" in done.stdout


def test_an_answer_without_a_reference_says_so(hybrid: Hybrid, tmp_path: Path) -> None:
    path = tmp_path / "bare.jsonl"
    path.write_text('{"id": "a", "text": "Rome"}\n')
    assert "(no reference: 1)" in hybrid("grade", path, "--grader", "contains").stdout

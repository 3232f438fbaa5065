"""What is exported is read again by hybrid, with the same scores; and files of other tools are converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.graded_runs import OUTPUTS, exported, json_lines
from tests.support.in_process import Hybrid

FORMATS = Path(__file__).parents[1] / "data" / "formats"


def summary(hybrid: Hybrid, path: Path, *more: str) -> dict[str, Any]:
    done = hybrid("grade", path, *more, "--json", "-o", path.parent / "again.json")
    found: dict[str, Any] = json.loads(done.stdout)["summary"]
    return found


def test_a_log_of_inspect_is_graded_as_the_run_that_it_came_from(outputs: Path, hybrid: Hybrid) -> None:
    first = summary(hybrid, outputs)
    again = summary(hybrid, exported(hybrid, outputs, "inspect"), "--grader", "exact")
    for name in ("score", "n", "figures", "questions", "outputs", "unit"):
        assert again[name] == first[name]
    assert sum(again["failed_outputs"].values()) == sum(first["failed_outputs"].values()) == 3
    assert again["ungraded"]["count"] == first["ungraded"]["count"] == 2


@pytest.mark.parametrize("name", ["inspect", "lm-eval"])
def test_the_scores_in_an_export_are_those_of_the_run(outputs: Path, hybrid: Hybrid, name: str) -> None:
    first, path = summary(hybrid, outputs), exported(hybrid, outputs, name)
    recorded = summary(hybrid, next(path.glob("samples_*")) if path.is_dir() else path)
    assert (recorded["score"], recorded["n"]) == (first["score"], first["n"])
    assert recorded["ungraded"]["count"] == first["ungraded"]["count"]


def test_answers_of_a_batch_are_read_with_their_failures(outputs: Path, hybrid: Hybrid) -> None:
    batch = exported(hybrid, outputs, "openai-batch")
    lines = json_lines(exported(hybrid, batch, "jsonl", "-o", outputs.parent / "again.jsonl"))
    said = {str(line["question"]): line for line in lines}
    for one in OUTPUTS:
        assert said[one.key]["text"] == one.text
        assert (said[one.key]["error"] is None) == (one.error is None)


@pytest.mark.parametrize("name", ["openai-batch", "archive"])
def test_a_format_without_the_grades_of_one_grader_asks_for_none(outputs: Path, hybrid: Hybrid, name: str) -> None:
    assert hybrid("grade", outputs, "--grader", "contains").code == 0
    (outputs.parent / "grades.exact.json").rename(outputs.parent / "grades.other.json")  # none is of the run's own
    several = hybrid("export", outputs, "--to", "csv")
    assert (several.code, "graded more than once" in several.stderr) == (2, True)
    assert exported(hybrid, outputs, name).stat().st_size


def test_a_submission_is_read_as_two_attempts_at_each_test_input(folder: Path, hybrid: Hybrid) -> None:
    submission = exported(hybrid, folder / "outputs.json", "arc-submission")
    assert [line["question"] for line in json_lines(exported(hybrid, submission, "jsonl"))] == [
        f"0000000a/{number}" for number in (0, 0, 1, 1)
    ]


@pytest.mark.parametrize("name", ["inspect_epochs2_0.3.42.eval", "made_lmeval_0.4.13_samples_made_mc.jsonl"])
def test_a_file_of_another_tool_is_converted(tmp_path: Path, hybrid: Hybrid, name: str) -> None:
    lines = json_lines(exported(hybrid, FORMATS / name, "jsonl", "-o", tmp_path / "x.jsonl"))
    table = exported(hybrid, FORMATS / name, "csv", "-o", tmp_path / "x.csv")
    assert lines
    assert all(line["text"] is not None for line in lines)
    assert table.read_text().count("\n") >= len(lines)


def test_a_file_that_lacks_samples_is_converted_as_far_as_it_goes(tmp_path: Path, hybrid: Hybrid) -> None:
    done = hybrid("export", FORMATS / "inspect_tool_error_0.3.58.json", "--to", "jsonl", "-o", tmp_path / "x.jsonl")
    assert (done.code, "is not whole" in done.stderr) == (4, True), done.stderr
    assert len(json_lines(tmp_path / "x.jsonl")) == 1

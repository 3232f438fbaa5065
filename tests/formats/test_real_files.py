"""Real files of other tools are graded, and the figures are those of the tools' own headers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hybrid.formats import open_any
from tests.support.in_process import Hybrid

FILES = Path(__file__).parents[1] / "data" / "formats"


def graded(hybrid: Hybrid, tmp_path: Path, name: str, *options: object, code: int = 0) -> dict[str, Any]:
    """The summary of `hybrid grade --json` on a file of tests/data/formats."""
    done = hybrid("grade", FILES / name, "--json", "-o", tmp_path / "grades.json", *options)
    assert done.code == code, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)["summary"]
    return summary


def measured(summary: dict[str, Any]) -> dict[tuple[str, str], tuple[float, int]]:
    """Group and name of each measure: its value and n."""
    return {(one["group"], one["name"]): (round(one["value"], 4), one["n"]) for one in summary["measures"]}


def test_recorded_scores_and_reducers_are_those_of_the_log(hybrid: Hybrid, tmp_path: Path) -> None:
    """Six questions of three epochs: one errored, `maybe` has None for one question and NaN for another."""
    found = measured(graded(hybrid, tmp_path, "made_inspect_epochs3_0.3.285.eval"))
    assert found["mean", "match"] == found["at_least_2", "match"] == (0.6667, 6)
    assert found["mean", "multi/short"] == (1.0, 6)
    assert (found["mean", "multi/polite"], found["at_least_2", "multi/polite"]) == ((0.5, 6), (0.0, 6))
    assert (found["mean", "maybe"], found["at_least_2", "maybe"]) == ((0.375, 4), (0.25, 4))
    assert found["outputs without a score", "maybe: NaN"] == (3.0, 18)
    assert found["outputs without a score", "maybe: no score"] == (3.0, 18)
    assert found["outputs without a score", "multi/polite: NaN"] == (1.0, 18)


def test_an_error_of_a_sample_is_a_failure(hybrid: Hybrid, tmp_path: Path) -> None:
    summary = graded(hybrid, tmp_path, "made_inspect_epochs3_0.3.285.eval")
    assert (summary["n"], summary["questions"], summary["outputs"]) == (6, 6, 18)
    assert summary["failed_outputs"] == {"error": 1}


@pytest.mark.parametrize(
    ("name", "scorer", "mean", "n"),
    [
        ("inspect_epochs2_0.3.42.eval", "match", 0.75, 2),
        ("inspect_popularity_0.3.58.eval", "match", 0.8, 10),
        ("inspect_formats_0.3.41.eval", "match", 0.0, 1),
        ("inspect_formats_0.3.41.json", "match", 0.0, 1),
        ("inspect_images_0.3.41.json", "match", 0.0, 1),
        ("inspect_arc_qwen_0.3.138.json", "choice", 0.3333, 3),
        ("made_lmeval_0.4.13_samples_made_mc.jsonl", "acc,none", 0.1667, 12),
        ("made_lmeval_0.4.13_samples_made_mc.jsonl", "acc_norm,none", 0.0833, 12),
        ("made_lmeval_0.4.13_samples_made_gen.jsonl", "exact_match,loose", 0.0, 12),
    ],
)
def test_the_mean_of_a_scorer_is_that_of_the_tool(
    hybrid: Hybrid, tmp_path: Path, name: str, scorer: str, mean: float, n: int
) -> None:
    assert measured(graded(hybrid, tmp_path, name))["", scorer] == (mean, n)


def test_both_layouts_of_a_log_give_the_same_outputs() -> None:
    packed, plain = (open_any(FILES / f"inspect_formats_0.3.41.{ending}") for ending in ("eval", "json"))
    first, second = list(packed.records()), list(plain.records())
    assert first == second
    assert packed.sha256 == plain.sha256


def test_any_grader_grades_the_texts_of_a_log_with_its_targets(hybrid: Hybrid, tmp_path: Path) -> None:
    summary = graded(hybrid, tmp_path, "made_inspect_epochs3_0.3.285.eval", "--grader", "contains")
    assert summary["n"] == 6
    assert summary["score"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inspect_nan_header.json", "it holds no samples"),
        ("inspect_tool_error_0.3.58.json", "its header says 4 samples, and 1 is in the file"),
    ],
)
def test_a_log_that_lacks_samples_is_told_and_not_finished(
    hybrid: Hybrid, tmp_path: Path, name: str, words: str
) -> None:
    done = hybrid("grade", FILES / name, "-o", tmp_path / "grades.json")
    assert done.code == 4
    assert words in done.stderr
    assert (tmp_path / "grades.json").is_file()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("inspect_future_version.json", 6, "version 4, this hybrid reads 1 to 2"),
        ("made_lmeval_0.4.13_results.json", 6, "no answer, no score of a document"),
        ("lmeval_testdata_arc_challenge_v0.json", 6, "no answer, no score of a document"),
        ("batch_groq_input.jsonl", 2, "the input of a batch"),
        ("made_arc_solutions_a.json", 2, "solutions of ARC tasks"),
        ("arc_submission_dino_a.json", 6, "task '007bbfb7': test input 1, attempt_1: one level too deep"),
        ("made_batch_output_errors.jsonl", 2, "names no grader"),
    ],
)
def test_a_file_that_cannot_be_graded_says_why(
    hybrid: Hybrid, tmp_path: Path, name: str, code: int, words: str
) -> None:
    done = hybrid("grade", FILES / name, "-o", tmp_path / "grades.json")
    assert done.code == code
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "grades.json").exists()


def test_a_choice_is_graded_by_its_index(hybrid: Hybrid, tmp_path: Path) -> None:
    name = "made_lmeval_0.4.13_samples_made_mc.jsonl"
    assert graded(hybrid, tmp_path, name, "--grader", "exact")["score"] == pytest.approx(1 / 6)


def test_texts_of_several_filters_are_not_mixed(hybrid: Hybrid, tmp_path: Path) -> None:
    name = "made_lmeval_0.4.13_samples_made_gen.jsonl"
    done = hybrid("grade", FILES / name, "--grader", "exact", "-o", tmp_path / "grades.json")
    assert done.code == 2
    assert "'strict', 'loose'" in done.stderr
    assert graded(hybrid, tmp_path, name, "--grader", "exact", "--filter", "loose")["outputs"] == 12


def test_two_attempts_are_judged_with_the_solutions(hybrid: Hybrid, tmp_path: Path) -> None:
    solutions = FILES / "made_arc_solutions_a.json"
    summary = graded(hybrid, tmp_path, "made_arc_submission_a.json", "--input", solutions)
    assert (summary["n"], summary["score"]) == (10, 0.6)
    assert summary["figures"]["pass2"]["mean"] == pytest.approx(6 / 11)


def test_a_batch_is_joined_with_its_input(hybrid: Hybrid, tmp_path: Path) -> None:
    """Outputs come in another order; a failure by status, and one of an id that is not in the input."""
    asked = FILES / "batch_groq_input.jsonl"
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    table = tmp_path / "asked.jsonl"
    answers = {"request-1": "4", "request-2": "Hola", "request-3": "20"}
    table.write_text("\n".join(json.dumps({**row, "reference": answers[row["custom_id"]]}) for row in rows))
    summary = graded(hybrid, tmp_path, "batch_groq_output.jsonl", "--grader", "contains", "--input", table)
    assert (summary["n"], summary["score"], summary["failed_outputs"]) == (3, 1.0, {})
    errors = "made_batch_output_errors.jsonl", "--grader", "exact", "--input", table
    done = hybrid("grade", FILES / errors[0], *errors[1:], "-o", tmp_path / "grades.json")
    assert done.code == 6
    assert "line 2: its id 'request-9' is not in asked.jsonl" in done.stderr
    done = hybrid("grade", FILES / errors[0], *errors[1:], "-o", tmp_path / "grades.json", "--skip-bad")
    assert done.code == 4
    assert "2 of 3 outputs are missing" in done.stderr
    assert "left out: 1 bad row" in done.stderr
    assert "rate_limit_exceeded: 1" in done.stdout


def test_helm_is_read_with_its_references(hybrid: Hybrid, tmp_path: Path) -> None:
    summary = graded(hybrid, tmp_path, "helm_narrative_qa_scenario_state.json", "--grader", "f1")
    assert (summary["n"], summary["failed_outputs"]) == (5, {})
    assert summary["score"] > 0


def test_a_report_of_a_log_shows_the_scores_of_its_scorers(hybrid: Hybrid, tmp_path: Path) -> None:
    log = tmp_path / "log.eval"
    shutil.copy(FILES / "made_inspect_epochs3_0.3.285.eval", log)
    done = hybrid("report", log)
    assert done.code == 0, done.stderr
    page = (tmp_path / "log.eval.report.html").read_text()
    for words in ("made/fixed", "multi/polite", "deliberate failure", "0.375", "model digest, chat template"):
        assert words in page
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.eval", "log.eval.report.html"]


def test_the_same_log_gives_the_same_bytes(hybrid: Hybrid, tmp_path: Path) -> None:
    grades = []
    for _ in range(2):
        graded(hybrid, tmp_path, "made_inspect_epochs3_0.3.285.eval")
        grades.append((tmp_path / "grades.json").read_bytes())
    assert grades[0] == grades[1]

"""A run with arms: every output has the score of its own arm, in every format."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from graders.exact import Exact
from hybrid import read_run
from hybrid.grading.grade_file import grade_file
from hybrid.outputs import grades_of, write_outputs
from hybrid.records import Failure, Output
from tests.support.graded_runs import RUN, exported, json_lines
from tests.support.in_process import Hybrid

SAID = {
    ("q0", "short"): "yes",
    ("q0", "long"): "no",
    ("q1", "short"): "no",
    ("q1", "long"): None,
    ("q2", "long"): "yes",
}
SCORES = {("q0", "short"): 1.0, ("q0", "long"): 0.0, ("q1", "short"): 0.0, ("q1", "long"): None, ("q2", "long"): 1.0}


@pytest.fixture
def arms(tmp_path: Path) -> Path:
    """Three questions, two arms; one output failed, and the first arm has no answer to the last question."""
    outputs = []
    for number, ((question, arm), text) in enumerate(SAID.items()):
        error = None if text else Failure("too-long", "no room")
        outputs.append(Output(f"{number:064x}", question, question, {"arm": arm}, 0, text, error, "yes"))
    path = tmp_path / "outputs.json"
    run = {**RUN, "about": {"grader": "exact", "arms": ["short", "long"]}}
    write_outputs(path, run, [], {}, outputs)
    grade_file(path, Exact(), "exact", grades_of(path, "exact"))
    return path


def test_a_row_has_the_score_of_its_own_arm(arms: Path, hybrid: Hybrid) -> None:
    rows = [(row.output, row.grade) for row in read_run(arms)]
    assert {(one.question, str(one.view["arm"])): grade.score if grade else -1 for one, grade in rows} == SCORES
    lines = json_lines(exported(hybrid, arms, "jsonl"))
    assert {(one["question"], one["view"]["arm"]): one["grade"]["score"] for one in lines} == SCORES
    (failed,) = [grade for one, grade in rows if one.error]
    assert failed
    assert failed.reason


def test_lm_eval_has_an_arm_as_a_filter(arms: Path, hybrid: Hybrid) -> None:
    place = exported(hybrid, arms, "lm-eval")
    rows = json_lines(next(place.glob("samples_*.jsonl")))
    scores = {(one["doc"]["question"], one["filter"]): one.get("exact") for one in rows}
    assert scores == {(question, "none" if arm == "short" else arm): score for (question, arm), score in SCORES.items()}
    found = json.loads(next(place.glob("results_*.json")).read_text())["results"]["prompts"]
    assert (found["exact,none"], found["exact,long"]) == (0.5, 0.5)


def test_a_test_case_is_about_the_first_arm(arms: Path, hybrid: Hybrid) -> None:
    hybrid("grade", arms, "--junit", arms.parent / "x.xml")
    cases = {case.get("name"): [one.tag for one in case] for case in parse(arms.parent / "x.xml").iter("testcase")}  # noqa: S314
    assert cases == {"q0": [], "q1": ["failure"], "q2": ["skipped"]}


@pytest.mark.slow
def test_inspect_has_an_arm_as_a_scorer(arms: Path, hybrid: Hybrid) -> None:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(exported(hybrid, arms, "inspect")))
    assert log.results
    means = {one.name: (one.metrics["mean"].value, one.scored_samples) for one in log.results.scores}
    assert means == {"exact": (0.5, 2), "exact@long": (0.5, 2)}
    names = {(one.id, one.metadata["view"]["arm"]): list(one.scores or {}) for one in log.samples or []}
    assert names["q0", "short"] == ["exact"]
    assert names["q2", "long"] == ["exact@long"]
    assert names["q1", "long"] == []

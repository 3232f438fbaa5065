"""The self-edit grader: right, wrong, and not gradable."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading.grade_file import grade_file
from hybrid.outputs import write_outputs
from hybrid.protocols import OutputGrader
from hybrid.records import Output
from pipelines.seal.configurations import PAPER
from pipelines.seal.edit_results import EditResult
from pipelines.seal.grader import SelfEdit

A, B, C = ((1, 2),), ((3, 4),), ((5,),)
RIGHT, HALF = ((A, B), (C,)), ((A, B), (A,))
TRUTH = [[[3, 4]], [[5]]]
RESULT = EditResult(
    edit=PAPER.to_json(),
    reply="{}",
    bare=True,
    first=True,
    attempts=RIGHT,
    base=HALF,
    fixed=RIGHT,
    random=(RIGHT, HALF),
    together=(RIGHT, HALF),
    steps=75,
)


def output(result: EditResult | str, question: str = "t@edit-00", **other: Any) -> Output:
    text = result if isinstance(result, str) else result.to_text()
    given = {"view": {}, "reference": TRUTH, "task": question.partition("@")[0], **other}
    return Output(key=question, question=question, sample=0, text=text, error=None, **given)


def test_it_judges_each_output_alone() -> None:
    assert isinstance(SelfEdit(), OutputGrader)


def test_a_task_counts_when_every_test_input_is_right_in_one_of_two_attempts() -> None:
    grade = SelfEdit().grade(output(RESULT))
    assert grade.score == 1.0
    assert grade.arms == {"base": 0.0, "fixed": 1.0, "random": 0.5}
    assert SelfEdit().grade(output(dataclasses.replace(RESULT, attempts=HALF))).score == 0.0
    assert SelfEdit().grade(output(dataclasses.replace(RESULT, attempts=((A, B),)))).score == 0.0


def test_the_figures_say_how_good_the_replies_were() -> None:
    figures = SelfEdit().grade(output(RESULT)).figures
    assert {name: figures[name] for name in ("valid", "bare", "trained", "distinct")} == dict.fromkeys(
        ("valid", "bare", "trained", "distinct"), 1.0
    )
    assert figures["steps"] == pytest.approx(0.2)
    assert (figures["any-right"], figures["any-right/random"]) == (1.0, 1.0)
    refused = dataclasses.replace(RESULT, edit=None, untrained="no JSON object", bare=False, first=False, together=())
    figures = SelfEdit().grade(output(refused)).figures
    assert figures == {"valid": 0.0, "bare": 0.0, "trained": 0.0, "distinct": 0.0}


def test_what_is_not_known_is_left_out_and_never_wrong() -> None:
    lost = dataclasses.replace(RESULT, attempts=None, failed="engine")
    grade = SelfEdit().grade(output(lost))
    assert (grade.score, grade.reason) == (None, "no answer: engine")
    grade = SelfEdit().grade(
        output(dataclasses.replace(RESULT, base=None, random=(RIGHT, None), together=(RIGHT, None)))
    )
    assert grade.arms == {"fixed": 1.0}
    assert not {"any-right", "any-right/random"} & set(grade.figures)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [(None, "no reference"), ([[1]], "the reference is no list of grids"), ("x", "the reference is no list of grids")],
)
def test_without_a_truth_for_each_test_input_there_is_no_score(reference: Any, reason: str) -> None:
    grade = SelfEdit().grade(output(RESULT, reference=reference))
    assert (grade.score, grade.reason) == (None, reason)


@pytest.mark.parametrize("text", ["", "12\n34", "{}", "[[[", '{"edit": null}'])
def test_another_pipelines_text_is_not_graded(text: str) -> None:
    grade = SelfEdit().grade(output(text))
    assert grade.score is None
    assert grade.reason == "not the record of a self-edit"


def test_the_round_and_split_of_the_view_name_points_of_a_curve() -> None:
    figures = SelfEdit().grade(output(RESULT, view={"round": 2, "split": "eval"})).figures
    points = {name: value for name, value in figures.items() if name.startswith("round-")}
    assert points == {
        "round-2/eval": 1.0,
        "round-2/eval/base": 0.0,
        "round-2/eval/fixed": 1.0,
        "round-2/eval/random": 0.5,
    }
    for view in ({"round": True, "split": "eval"}, {"round": -1, "split": "eval"}, {"round": 1, "split": "test"}, {}):
        assert not any(name.startswith("round-") for name in SelfEdit().grade(output(RESULT, view=view)).figures)


def test_edits_of_one_task_are_no_independent_scores(tmp_path: Path) -> None:
    wrong = dataclasses.replace(RESULT, attempts=HALF)
    outputs = [output(RESULT if task < 6 else wrong, f"t{task}@edit-{n:02d}") for task in range(8) for n in range(5)]
    write_outputs(tmp_path / "outputs.json", {"id": "r"}, [], {}, outputs)
    summary = grade_file(tmp_path / "outputs.json", SelfEdit(), "self-edit", tmp_path / "grades.json")
    assert (summary["n"], summary["score"]) == (40, 0.75)  # 30 of 40
    low, high = summary["interval"]
    assert low < 0.42  # as wide as 6 of 8, and not 60 to 86 % as if 40 were independent
    assert high > 0.9
    assert summary["controls"]["random"]["score"] == 0.5

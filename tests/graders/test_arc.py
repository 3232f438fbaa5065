"""The ARC grader: right, wrong, and not gradable."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from graders.arc import Arc
from hybrid.canonical import encode
from hybrid.protocols import QuestionGrader
from hybrid.records import Failure, Output, Question

TRUTH = [[1, 2], [3, 4]]
SOURCE = {
    "train": [{"input": [[0]], "output": [[5]]}, {"input": [[1]], "output": TRUTH}, {"input": [[2]], "output": TRUTH}],
    "test": [{"input": [[1, 2], [3, 4]]}, {"input": [[9]]}],
}
FAILED = Failure("too-long", "the prompt is longer than the context")


def output(text: str | None, transform: str = "identity", finish: str = "stop", **other: Any) -> Output:
    view = other.pop("view", {"transform": transform, "train": [0, 1], "format": "compact"})
    error = None if text is not None else FAILED
    return Output(other.pop("key", "k"), "t", "t/0", view, other.pop("sample", 0), text, error, TRUTH, finish)


def question(*outputs: Output, reference: Any = TRUTH, source: Any = SOURCE, id: str = "t/0") -> Question:
    return Question("t", id, reference, outputs, source)


def test_it_is_a_grader_of_questions_with_tasks_as_its_unit() -> None:
    assert isinstance(Arc(), QuestionGrader)
    assert Arc.unit == "task"


def test_an_answer_is_turned_back_before_it_is_compared() -> None:
    grade = Arc().grade_question(question(output("13\n24", "transpose")))
    assert (grade.score, grade.figures["view/transpose"], grade.detail["attempts"]) == (1.0, 1.0, [((1, 2), (3, 4))])


def test_the_second_attempt_counts_and_top1_says_so() -> None:
    grade = Arc().grade_question(question(output("99"), output("99", key="l"), output("12\n34")))
    assert grade.score == 1.0
    assert {name: grade.figures[name] for name in ("top1", "oracle", "parsed")} == {"top1": 0, "oracle": 1, "parsed": 1}


def test_the_oracle_counts_an_answer_that_lost_the_vote() -> None:
    grade = Arc().grade_question(question(*[output(t) for t in ("9", "9", "8", "8", "12\n34")]))
    assert (grade.score, grade.figures["oracle"]) == (0.0, 1.0)
    assert grade.figures["view/identity"] == pytest.approx(0.2)


def test_garbage_is_a_wrong_answer() -> None:
    grade = Arc().grade_question(question(output("I think"), output("12\n3"), output("")))
    assert grade.score == 0.0
    assert grade.figures["parsed"] == 0.0
    assert grade.figures["cells"] == 0.0
    assert grade.detail["refused"] == {"empty": 1, "not one whole grid": 1, "ragged rows": 1}
    assert grade.detail["attempts"] == []


def test_an_answer_cut_at_the_bound_is_refused_even_when_it_reads_as_a_grid() -> None:
    grade = Arc().grade_question(question(output("12\n34", finish="length")))
    assert grade.score == 0.0
    assert grade.detail["refused"] == {"cut at the token bound": 1}


@pytest.mark.parametrize(
    ("text", "finish", "score"),
    [
        ("[[1 2]\n [3 4]]# and so on", "length", 1.0),  # whole before it was cut
        ("[[1 2]\n [3 4]]", "length", 0.0),
        ("12\n34", "MAX_TOKENS", 0.0),  # another server's word
        ("[[01 02]\n [03 04]]#[[9]]", "", 1.0),
    ],
)
def test_answers_in_files_of_others_end_at_their_mark_and_are_refused_when_cut(
    text: str, finish: str, score: float
) -> None:
    asked = question(output(text, finish=finish, view={"transform": "identity"}))
    grade = Arc().grade_question(asked)
    assert (grade.score, bool(grade.detail["refused"])) == (score, score == 0.0)


def test_answers_to_different_questions_under_one_name_are_not_judged() -> None:
    one, other = output("12\n34"), dataclasses.replace(output("99", key="l"), reference=[[9, 9]])
    assert Arc().grade_question(question(one, other)).score is None
    assert Arc().grade_question(question(one, other)).reason == "its outputs have different references"
    assert Arc().grade_question(question(one, dataclasses.replace(other, reference=None))).score == 1.0


def test_a_question_whose_outputs_all_failed_has_no_score() -> None:
    grade = Arc().grade_question(question(output(None), output(None)))
    assert (grade.score, grade.reason) == (None, "all outputs failed: too-long")


def test_a_question_with_some_failed_outputs_is_graded_on_the_rest() -> None:
    grade = Arc().grade_question(question(output(None), output("12\n34")))
    assert grade.score == 1.0
    assert grade.detail["failed"] == {"too-long": 1}
    assert grade.figures["parsed"] == 1.0


def test_a_view_that_cannot_be_undone_is_a_failure_and_no_answer() -> None:
    for view in ({"transform": "shear"}, {"transform": ["identity"]}, {"format": "xml"}, ["identity"]):
        grade = Arc().grade_question(question(output("12\n34", view=view)))
        assert (grade.score, grade.reason) == (None, "all outputs failed: unknown view")


def test_an_output_without_a_view_is_the_question_as_it_is() -> None:
    for text in ("12\n34", "[[1 2]\n [3 4]]"):
        assert Arc().grade_question(question(output(text, view={}))).score == 1.0


@pytest.mark.parametrize(
    ("reference", "reason"),
    [(None, "no reference"), ([[10]], "the reference is not a grid"), ("12", "the reference is not a grid")],
)
def test_without_a_proper_reference_there_is_no_score(reference: Any, reason: str) -> None:
    grade = Arc().grade_question(question(output("12\n34"), reference=reference))
    assert (grade.score, grade.reason) == (None, reason)


def test_no_outputs_is_no_score() -> None:
    assert Arc().grade_question(question()).reason == "no outputs"


def test_partial_cells_are_those_of_the_first_attempt() -> None:
    assert Arc().grade_question(question(output("12\n30"))).figures["cells"] == 0.75


def test_the_controls_are_the_input_and_the_most_frequent_output() -> None:
    assert Arc().grade_question(question(output("9"))).controls == {"copy-input": 1.0, "most-frequent-grid": 1.0}
    other = Arc().grade_question(question(output("9"), reference=[[5]]))
    assert other.controls == {"copy-input": 0.0, "most-frequent-grid": 0.0}
    second = Arc().grade_question(question(output("9"), reference=[[9]], id="t/1"))
    assert second.controls == {"copy-input": 1.0, "most-frequent-grid": 0.0}


@pytest.mark.parametrize(
    "source",
    [None, [], "x", {}, {"train": 1, "test": {}}, {"train": [1, None], "test": [None]}, {"train": [{"output": "x"}]}],
)
def test_a_foreign_source_gives_no_false_control(source: Any) -> None:
    grade = Arc().grade_question(question(output("12\n34"), source=source))
    assert grade.score == 1.0
    assert all(value == 0.0 for value in grade.controls.values())


@pytest.mark.parametrize("id", ["t", "t/-1", "t/7", "t/99999999999999999999", "t/²"])
def test_a_foreign_question_id_gives_no_input_control(id: str) -> None:
    assert "copy-input" not in Arc().grade_question(question(output("12\n34"), id=id)).controls


@pytest.mark.parametrize("voting", ["flat", "seal"])
def test_the_order_of_the_outputs_decides_nothing(voting: Any) -> None:
    outputs = [
        output("11\n22", key="a"),
        output("12\n34", key="b", sample=1),
        output("12\n34", "flip0", key="c"),
        output("99", "rot90", key="d"),
    ]
    grades = [Arc(voting=voting).grade_question(question(*order)) for order in (outputs, outputs[::-1])]
    assert grades[0] == grades[1]


def test_the_detail_names_the_top_grids_with_their_views_and_is_json() -> None:
    outputs = [output("12\n34"), output("34\n12", "flip0"), *[output(f"{n}") for n in range(6)]]
    detail = Arc().grade_question(question(*outputs)).detail
    assert detail["votes"][0] == {"grid": ((1, 2), (3, 4)), "votes": 2, "views": ["identity", "flip0"]}
    assert len(detail["votes"]) == 5
    assert json.loads(encode(detail))["attempts"] == [[[1, 2], [3, 4]], [[0]]]


def test_the_published_voting_is_a_setting() -> None:
    outputs = [output("11\n11", key="a"), output("22\n22", key="b")]
    flat, seal = (Arc(voting=name).grade_question(question(*outputs)) for name in ("flat", "seal"))
    assert len(set(flat.detail["attempts"])) == 2
    assert len(set(seal.detail["attempts"])) == 1


def test_ties_between_shapes_are_those_of_the_published_vote() -> None:
    """What SEAL's own code gives for these two answers."""
    tall, wide = [[4, 1], [1, 1], [1, 2], [0, 2]], [[4, 1, 1, 0], [1, 1, 2, 2]]
    outputs = [
        output(text, key=text, view={"train": [place], "format": "seal"})
        for place, text in enumerate(["[[4 1]\n [1 1]\n [1 2]\n [0 2]]", "[[4 1 1 0]\n [1 1 2 2]]"])
    ]
    grade = Arc(voting="seal").grade_question(question(*outputs, reference=wide))
    assert grade.score == 1.0
    assert json.loads(encode(grade.detail["attempts"])) == [tall, wide]


def base(text: str | None, **other: Any) -> Output:
    return output(text, view={"transform": "identity", "train": [0], "format": "compact", "arm": "base"}, **other)


def test_another_arm_stands_beside_and_never_votes() -> None:
    alone = Arc().grade_question(question(output("12\n34")))
    grade = Arc().grade_question(question(output("12\n34"), *[base("9", key=f"b{n}") for n in range(5)]))
    assert (grade.score, grade.arms, alone.arms) == (1.0, {"base": 0.0}, {})
    assert grade.controls == alone.controls
    assert {**grade.figures, **alone.figures} == grade.figures
    assert {name for name in grade.figures if name not in alone.figures} == {
        "top1@base", "pass2@base", "cells@base", "oracle@base", "parsed@base",
    }  # fmt: skip
    assert grade.detail == alone.detail
    assert Arc().grade_question(question(output("9"), base("12\n34"))).arms == {"base": 1.0}


@pytest.mark.parametrize("voting", ["flat", "seal"])
def test_an_arm_is_judged_by_the_same_vote(voting: Any) -> None:
    answers = ["9", "9", "8", "8", "12\n34"]
    grade = Arc(voting=voting).grade_question(
        question(*[output(t, key=f"a{n}") for n, t in enumerate(answers)], *[base(t) for t in answers])
    )
    assert grade.score == grade.arms["base"]


def test_an_arm_that_failed_is_no_control_and_one_alone_is_no_score() -> None:
    assert Arc().grade_question(question(output("12\n34"), base(None))).arms == {}
    grade = Arc().grade_question(question(base("12\n34")))
    assert (grade.score, grade.reason) == (None, "no outputs")
    grade = Arc().grade_question(question(output(None), base("12\n34")))
    assert (grade.score, grade.reason) == (None, "all outputs failed: too-long")


@pytest.mark.parametrize("arm", ["x", "?", 1, None, True, ["base"], {"base": 1}])
def test_an_arm_that_nobody_knows_is_a_failure(arm: Any) -> None:
    grade = Arc().grade_question(question(output("12\n34", view={"arm": arm})))
    assert (grade.score, grade.reason) == (None, "all outputs failed: unknown arm")
    grade = Arc().grade_question(question(output("12\n34"), output("9", view={"arm": arm}, key="l")))
    assert (grade.score, grade.detail["failed"]) == (1.0, {"unknown arm": 1})

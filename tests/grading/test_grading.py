"""Grading: what is counted, in which order, in how much memory, and that the same file gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.exact import Exact
from hybrid.canonical import encode
from hybrid.errors import BadData, PluginFault
from hybrid.grading import questions
from hybrid.grading.grade_file import grade_file
from hybrid.grading.questions import in_order
from hybrid.grading.summary import MOST_REASONS, REST
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Failure, Grade, Output, Question
from hybrid.statistics.intervals import paired_difference, wilson
from hybrid.statistics.majority import MajorityControl


@dataclass(frozen=True)
class Same:
    """A small grader: the text is the reference; a text of '?' cannot be judged."""

    def grade(self, output: Output) -> Grade:
        assert output.text is not None, "a failure never reaches a grader"
        if output.text.startswith("?"):
            return Grade(None, f"cannot judge {output.text}")
        right = float(output.text == output.reference)
        return Grade(
            right,
            figures={"long": float(len(output.text) > 3)},
            controls={"always yes": float(output.reference == "yes")},
        )

    def control(self, reference: Any) -> str | None:
        return reference if isinstance(reference, str) else None


@dataclass(frozen=True)
class Vote:
    """A grader of whole questions, whose unit is the task."""

    unit: ClassVar[str] = "task"

    def grade_question(self, question: Question) -> Grade:
        texts = [output.text for output in question.outputs if output.text is not None]
        if not texts:
            return Grade(None, "nobody answered")
        best = max(sorted(set(texts)), key=texts.count)
        known = question.source["known"] if question.source else ""
        return Grade(float(best == question.reference), controls={"known": float(known == question.reference)})


def said(task: str, index: int, text: str | None, truth: Any = "yes", sample: int = 0) -> Output:
    error = None if text is not None else Failure("too-long", "no room")
    return Output(f"{task}-{index}-{sample}", task, f"{task}/{index}", {}, sample, text, error, truth)


def graded(
    tmp_path: Path, outputs: Iterable[Output], grader: Any = None, tasks: Any = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    source, out = tmp_path / "outputs.json", tmp_path / "grades.json"
    write_outputs(source, {"id": "r"}, [], tasks or {}, outputs)
    summary = grade_file(source, grader or Same(), "same", out)
    document = json.loads(out.read_bytes())
    assert document["summary"] == summary
    return summary, document["grades"]


def test_the_score_of_a_question_is_the_mean_over_its_samples(tmp_path: Path) -> None:
    summary, grades = graded(tmp_path, [said("a", 0, "yes"), said("a", 0, "no", sample=1), said("b", 0, "yes")])
    assert [grade["score"] for grade in grades] == [0.5, 1.0]
    assert [grade["outputs"] for grade in grades] == [2, 1]
    assert (summary["score"], summary["n"], summary["questions"], summary["outputs"]) == (0.75, 2, 2, 3)


def test_what_failed_is_counted_by_kind_and_never_judged(tmp_path: Path) -> None:
    summary, grades = graded(tmp_path, [said("a", 0, None), said("b", 0, "yes"), said("b", 0, None, sample=1)])
    assert [grade["score"] for grade in grades] == [None, 1.0]
    assert grades[0]["reason"] == "no output to grade"
    assert grades[1]["detail"] == {"graded": 1}
    assert summary["failed_outputs"] == {"too-long": 2}
    assert summary["ungraded"] == {"count": 1, "reasons": {"no output to grade": 1}}
    assert (summary["score"], summary["n"]) == (1.0, 1)


def test_what_cannot_be_judged_is_no_zero(tmp_path: Path) -> None:
    outputs = [said("a", 0, "?"), said("b", 0, "no"), said("c", 0, "?"), said("c", 0, "yes", sample=1)]
    summary, grades = graded(tmp_path, outputs)
    assert [grade["score"] for grade in grades] == [None, 0.0, 1.0]
    assert (summary["score"], summary["n"]) == (0.5, 2)
    assert summary["ungraded"] == {"count": 1, "reasons": {"cannot judge ?": 1}}
    assert summary["ungraded_outputs"] == {"count": 2, "reasons": {"cannot judge ?": 2}}


def test_nothing_at_all_has_no_score(tmp_path: Path) -> None:
    summary, grades = graded(tmp_path, [])
    assert (summary["score"], summary["interval"], summary["n"], grades) == (None, None, 0, [])


def test_reasons_without_end_are_counted_together(tmp_path: Path) -> None:
    summary, _ = graded(tmp_path, [said(f"{n:04}", 0, f"?{n}" + "x" * 10_000) for n in range(300)])
    reasons = summary["ungraded"]["reasons"]
    assert len(reasons) == MOST_REASONS + 1
    assert reasons[REST] == 300 - MOST_REASONS
    assert max(map(len, reasons)) <= 200


def test_a_task_counts_when_all_its_questions_are_right(tmp_path: Path) -> None:
    outputs = [
        said("a", 0, "yes"),
        said("a", 1, "no"),
        said("b", 0, "yes"),
        said("b", 1, "yes"),
        said("c", 0, "yes"),
        said("c", 1, None),
    ]
    summary, grades = graded(tmp_path, outputs, Vote(), {task: {"known": "yes"} for task in "abc"})
    assert (summary["unit"], summary["n"], summary["score"], summary["questions"]) == ("task", 2, 0.5, 6)
    assert summary["ungraded"] == {"count": 1, "reasons": {"nobody answered": 1}}
    assert summary["interval"] == list(wilson(0.5, 2))
    assert summary["controls"]["known"]["score"] == 1.0
    assert len(grades) == 6


@dataclass(frozen=True)
class Beside:
    """A grader that holds each question's second output against its first."""

    unit: ClassVar[str] = "task"

    def grade_question(self, question: Question) -> Grade:
        ours, *others = [float(output.text == question.reference) for output in question.outputs]
        return Grade(ours, controls={"never": 0.0}, arms={"other": others[0]} if others else {})


class BesideByQuestion(Beside):
    unit: ClassVar[str] = "question"


def pairwise(verdicts: dict[str, list[str]]) -> Iterator[Output]:
    """Outputs of tasks: "yn" is a question that ours has right and the other has not, "y" one without another."""
    for task, asked in verdicts.items():
        for index, letters in enumerate(asked):
            for sample, letter in enumerate(letters):
                yield said(task, index, "yes" if letter == "y" else "no", sample=sample)


def test_an_arm_is_a_control_with_the_gain_over_it(tmp_path: Path) -> None:
    verdicts = {"a": ["yn"], "b": ["yy"], "c": ["nn"], "d": ["yn"], "e": ["ny"], "f": ["yn"]}
    summary, grades = graded(tmp_path, pairwise(verdicts), Beside())
    arm = summary["controls"]["other"]
    gain = paired_difference((task, float(q[0][1] == "y"), float(q[0][0] == "y")) for task, q in verdicts.items())
    assert (arm["score"], arm["n"]) == (round(2 / 6, 12), 6)
    assert arm["gain"] == pytest.approx(gain.mean) == pytest.approx(summary["score"] - arm["score"])
    assert arm["gain_interval"] == [gain.low, gain.high]
    assert "gain" not in summary["controls"]["never"]
    assert grades[0]["controls"] == {"never": 0.0, "other": 0.0}


def test_the_gain_of_a_task_is_of_its_worst_questions_and_only_where_both_were_graded(tmp_path: Path) -> None:
    verdicts = {"a": ["yn", "yy"], "b": ["yy", "ny"], "c": ["yy", "y"], "d": ["yn"]}
    summary, _ = graded(tmp_path, pairwise(verdicts), Beside())
    arm = summary["controls"]["other"]
    assert (summary["score"], summary["n"]) == (0.75, 4)
    assert (arm["score"], arm["n"]) == (round(1 / 3, 12), 3)  # not c: one of its questions has no other
    assert arm["gain"] == round((1 - 1 + 1) / 3, 12)


def test_the_gain_by_question_is_clustered_by_task(tmp_path: Path) -> None:
    verdicts = {task: ["yn" if task in "ab" else "yy"] * 5 for task in "abcdef"}
    summary, _ = graded(tmp_path, pairwise(verdicts), BesideByQuestion())
    low, high = summary["controls"]["other"]["gain_interval"]
    alone = paired_difference((str(n), 0.0, float(n < 10)) for n in range(30))
    assert summary["controls"]["other"]["n"] == 30
    assert low < alone.low < 1 / 3 < alone.high < high


def test_the_control_is_the_best_constant_answer(tmp_path: Path) -> None:
    truths = ["yes"] * 6 + ["no"] * 3 + ["perhaps"]
    summary, _ = graded(tmp_path, [said(f"t{n}", 0, "yes", truth) for n, truth in enumerate(truths)])
    assert summary["controls"]["majority answer"] == {"score": 0.6, "n": 10, "interval": list(wilson(0.6, 10))}


def test_the_control_is_of_the_questions_that_have_a_score(tmp_path: Path) -> None:
    summary, _ = graded(tmp_path, [said("a", 0, "yes"), said("b", 0, "?", "no"), said("c", 0, None, "no")])
    assert summary["controls"]["majority answer"]["n"] == summary["n"] == 1


def test_figures_and_controls_have_intervals_clustered_by_task(tmp_path: Path) -> None:
    summary, _ = graded(tmp_path, [said(f"{n // 10}", n, "yes" if n % 3 else "never") for n in range(40)])
    assert summary["method"] == "Wilson, 95 %, clustered by task"
    assert summary["figures"]["long"]["n"] == 40
    assert summary["figures"]["long"]["interval"][0] < 14 / 40 < summary["figures"]["long"]["interval"][1]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    outputs = [said(f"t{n // 5}", n, random.Random(n).choice(["yes", "no", "?", None])) for n in range(200)]
    graded(tmp_path, sorted(outputs, key=lambda output: (output.task, output.question)))
    first = (tmp_path / "grades.json").read_bytes()
    grade_file(tmp_path / "outputs.json", Same(), "same", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == first


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("backwards", [False, True])
def test_another_layout_gives_the_same_bytes(tmp_path: Path, indent: int | None, backwards: bool) -> None:
    graded(tmp_path, [said("a", 0, "yes"), said("b", 0, "no"), said("b", 1, None)])
    document = json.loads((tmp_path / "outputs.json").read_bytes())
    members = list(document.items())
    (tmp_path / "other.json").write_text(json.dumps(dict(members[::-1] if backwards else members), indent=indent))
    grade_file(tmp_path / "other.json", Same(), "same", tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "grades.json").read_bytes()


def test_the_grades_name_the_outputs_and_prove_themselves(tmp_path: Path) -> None:
    graded(tmp_path, [said("a", 0, "yes"), said("b", 0, "no")])
    grades = json.loads((tmp_path / "grades.json").read_bytes())
    outputs = open_outputs(tmp_path / "outputs.json")
    list(outputs.records())
    assert grades["outputs"] == {"run": "r", "sha256": outputs.sha256}
    parts = [grades["grader"], *grades["grades"], grades["outputs"], grades["summary"]]
    assert grades["sha256"] == hashlib.sha256(b"".join(encode(part) + b"\n" for part in parts)).hexdigest()
    assert grades["count"] == 2
    assert list(grades) == ["format", "version", "grader", "outputs", "grades", "summary", "count", "sha256"]


def test_damaged_outputs_leave_no_grades(tmp_path: Path) -> None:
    graded(tmp_path, [said("a", 0, "yes"), said("b", 0, "no")])
    before = (tmp_path / "grades.json").read_bytes()
    source = tmp_path / "outputs.json"
    source.write_bytes(source.read_bytes().replace(b'"text":"no"', b'"text":"yes"'))
    with pytest.raises(BadData, match="does not fit its sha256"):
        grade_file(source, Same(), "same", tmp_path / "grades.json")
    assert (tmp_path / "grades.json").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["grades.json", "outputs.json"]


def test_an_output_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="holds an output twice"):
        graded(tmp_path, [said("a", 0, "yes"), said("a", 0, "yes")])


def test_an_output_that_is_there_twice_far_apart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="holds an output twice"):
        graded(tmp_path, [said("a", 0, "yes"), said("b", 0, "yes"), said("a", 0, "yes")])


def test_a_fault_in_a_grader_is_no_verdict(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Broken:
        def grade(self, output: Output) -> Grade:
            raise ZeroDivisionError

    with pytest.raises(PluginFault, match=r"Broken failed while judging the question 'a/0' .*: ZeroDivisionError"):
        graded(tmp_path, [said("a", 0, "yes")], Broken())


def test_questions_that_come_back_are_put_together(tmp_path: Path) -> None:
    mixed = [said("b", 0, "yes"), said("a", 0, "no"), said("b", 0, "no", sample=1), said("a", 0, "no", sample=1)]
    summary, grades = graded(tmp_path, mixed)
    assert [(grade["question"], grade["score"], grade["outputs"]) for grade in grades] == [
        ("a/0", 0.0, 2),
        ("b/0", 0.5, 2),
    ]
    assert summary["questions"] == 2


def test_the_order_of_the_file_does_not_matter_but_that_of_the_samples_is_kept(tmp_path: Path) -> None:
    outputs = [said(f"t{n % 7}", n % 3, f"text {n}", sample=n) for n in range(100)]
    expected = sorted(outputs, key=lambda output: (output.task, output.question, output.sample))
    assert list(in_order(outputs)) == expected


def test_sorting_changes_no_number(tmp_path: Path) -> None:
    """Neither whole numbers beyond 64 bits, which the fast parser would round, nor small ones."""
    outputs = [said(f"t{n}", 0, str(2**70 + n), truth=[2**70 + n, 1e-05, {"a": 1e22}]) for n in range(9)]
    backwards = list(reversed([*outputs, said("t9", 0, "x", truth=1e-05)]))
    assert list(in_order(backwards)) == list(reversed(backwards))
    wrong = said("t1", 0, str(float(2**70)), truth=2**70)
    _, grades = graded(tmp_path, [said("t2", 0, str(2**70), truth=2**70), wrong], Exact())
    assert [grade["score"] for grade in grades] == [0.0, 1.0]


def test_sorting_goes_through_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "CHUNK", 1000)
    monkeypatch.setattr(questions, "FAN", 3)
    outputs = [said(f"t{n}", 0, "x") for n in range(300)]
    random.Random(0).shuffle(outputs)
    assert [output.task for output in in_order(outputs)] == sorted(output.task for output in outputs)


WORDS = st.sampled_from(["a", "b", "a/b", "ä", "", "10", "9", "\n"])


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(WORDS, WORDS, st.sampled_from(["yes", "no", "?", None])), max_size=25))
def test_grouping_equals_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str | None]]
) -> None:
    failure = Failure("lost", "")
    outputs = [
        Output(str(n), task, question, {}, n, text, None if text is not None else failure, "yes")
        for n, (task, question, text) in enumerate(rows)
    ]
    groups: dict[tuple[str, str], list[str | None]] = {}
    for task, question, text in rows:
        groups.setdefault((task, question), []).append(text)
    _, grades = graded(tmp_path_factory.mktemp("any"), outputs)
    found = {(grade["task"], grade["question"]): (grade["score"], grade["outputs"]) for grade in grades}
    assert list(found) == sorted(groups)
    for key, texts in groups.items():
        judged = [float(text == "yes") for text in texts if text in ("yes", "no")]
        assert found[key] == (sum(judged) / len(judged) if judged else None, len(texts))


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.integers(1, 4))
def test_a_frequent_answer_is_always_found(answers: list[str], candidates: int) -> None:
    with MajorityControl(candidates) as majority:
        for number, answer in enumerate(answers):
            majority.add(str(number // 3), answer)
        found = majority.result()
        assert majority.result().interval() == found.interval()
    assert found.clusters == -(-len(answers) // 3)
    most = max((answers.count(answer) for answer in answers), default=0)
    assert found.n == len(answers)
    assert found.total <= most
    assert most - found.total <= len(answers) / (candidates + 1)
    if most > len(answers) / (candidates + 1):
        assert found.total == most

"""What a run of seal-knowledge came to: arms beside their controls, rewards by round, the judge's errors, the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.grading import calibration
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Output
from hybrid.statistics.agreement import ConfusionTable
from pipelines.seal.knowledge.comparison import compare, controls_of
from pipelines.seal.knowledge.grader import JudgedKnowledge, Knowledge
from pipelines.seal.knowledge.report import _title
from tests.support.in_process import Hybrid

RIGHT, WRONG = '{"reason": "means the same", "correct": true}', '{"reason": "another town", "correct": false}'
JUDGED: dict[str, Any] = {"models": {"judge": {"backend": "llamacpp", "model": "j"}}}
JUDGE = {"role": "judge", "name": "j", "digest": "d" * 64}


def record(passage: str, question: int, arm: str, verdict: str | None, split: str = "eval", **view: Any) -> Output:
    """An answer with the judge's reply; a failure for None."""
    end = arm if "completion" not in view else f"{arm}-{view['completion']:02d}"
    name = f"{passage}/q{question}"
    seen = {"split": split, "arm": arm, "question": "Where?", "rules": [], "judge": [], **view}
    if verdict is None:
        return Output(name + end, passage, f"{name}@{end}", seen, 0, None, Failure("no-text", "nothing"), ["Rome"])
    seen["judge"] = [{"text": verdict, "finish": "stop"}]
    return Output(name + end, passage, f"{name}@{end}", seen, 0, "there", None, ["Rome"])


def evaluation() -> Iterator[Output]:
    """Ten passages with two questions: none is right without training, each first one after round 1's text."""
    for number in range(10):
        passage = f"p{number}"
        for question in range(2):
            yield record(passage, question, "base", WRONG)
            yield record(passage, question, "passage", WRONG)
            yield record(passage, question, "round-0", WRONG, completion=0)
            yield record(passage, question, "round-0", RIGHT if question else WRONG, completion=1)
            yield record(passage, question, "round-1", WRONG if question else RIGHT, completion=0)


def training() -> Iterator[Output]:
    """Two passages; of the first one text teaches a question, of the second one text could not be learned."""
    for passage in ("t0", "t1"):
        for question in range(2):
            yield record(passage, question, "base", WRONG, "train", round=0)
            taught = RIGHT if passage == "t0" and not question else WRONG
            texts = {} if question else {"texts": [f"about {passage}"]}
            yield record(passage, question, "round-0", taught, "train", round=0, completion=0, **texts)
            failed = None if passage == "t1" else WRONG
            yield record(passage, question, "round-0", failed, "train", round=0, completion=1, **texts)


def test_arms_are_compared_on_the_same_questions_with_intervals_over_passages() -> None:
    found = compare([*evaluation(), *training()])
    assert found.names() == ["base", "passage", "round-0", "round-1"]
    assert {name: found.arms[name].right.mean for name in found.names()} == {
        "base": 0, "passage": 0, "round-0": 0.25, "round-1": 0.5,
    }  # fmt: skip
    gains = found.arms["round-1"].gains
    assert {name: of.mean for name, of in gains.items()} == {"base": 0.5, "passage": 0.5, "round-0": 0.25}
    assert all(of.n == 20 and of.clusters == 10 for of in gains.values())
    assert controls_of("base", found.arms) == []
    assert controls_of("round-1", ["round-1", "base"]) == ["base"]


def test_an_answer_without_a_score_counts_nowhere_and_is_named() -> None:
    outputs = list(evaluation())
    outputs[4] = record("p0", 0, "round-1", None, completion=0)
    found = compare(outputs).arms["round-1"]
    assert found.right.n == found.gains["base"].n == 19
    assert found.failed == {"no-text": 1}


def test_rewards_of_a_round_leave_out_what_could_not_be_learned() -> None:
    of = compare(training()).rounds[0]
    assert (of.passages, of.written, of.different, of.better) == (2, 4, 2, 1)
    assert of.texts.mean == pytest.approx((0.5 + 0 + 0) / 3)
    assert of.best.mean == 0.25
    assert of.base.mean == 0
    assert of.without == {"no-text": 1}


def test_hostile_views_are_no_arms() -> None:
    odd = record("p", 0, "base", RIGHT)
    odd.view["arm"] = "round-99999"
    worse = record("p", 1, "base", RIGHT, "train")
    worse.view["round"] = "many"
    assert not compare([odd, worse]).arms
    assert not compare([odd, worse]).rounds


def measured(grader: Knowledge, outputs: list[Output]) -> dict[tuple[str, str], Any]:
    with grader.ready(outputs, None) as judge:  # type: ignore[arg-type]
        return {(one.group, one.name): one for one in judge.measures()}


def test_a_gain_is_told_apart_by_its_interval() -> None:
    found = measured(Knowledge(), [*evaluation(), *training()])
    gain = found["round-1", "right minus that of base"]
    assert gain.standing == "better"
    assert found["passage", "right minus that of base"].standing == "not told apart"
    assert found["training, round 0", "texts without a reward: no-text"].value == 1


def test_the_share_of_each_arm_is_corrected_for_the_errors_that_were_measured_of_this_judge() -> None:
    judge = Knowledge().of_run(JUDGED, [JUDGE])
    assert isinstance(judge, JudgedKnowledge)
    outputs = list(evaluation())
    assert not any("corrected" in name for _, name in measured(judge, outputs))
    with judge.ready(outputs, None) as known:  # type: ignore[arg-type]
        identity: Any = known.checked_as  # type: ignore[attr-defined]
    calibration.keep(identity, {"table": ConfusionTable(90, 5, 10, 95)._asdict()})
    found = measured(judge, outputs)
    corrected = found["round-1", "right, corrected for the judge's errors"]
    assert corrected.value == pytest.approx((0.5 - 0.05) / (0.9 - 0.05))
    assert found["base", "right, corrected for the judge's errors"].value == 0


def test_without_exactly_one_judge_of_the_run_nothing_is_said_of_it() -> None:
    assert type(Knowledge().of_run({}, [])) is Knowledge
    assert type(Knowledge().of_run(JUDGED, [JUDGE, JUDGE])) is Knowledge


def test_the_page_has_every_arm_and_escapes_what_was_written(hybrid: Hybrid, tmp_path: Path) -> None:
    evil = record("x", 0, "round-1", RIGHT, completion=0, texts=["<script>alert(1)</script>"])
    outputs = sorted([*evaluation(), *training(), evil], key=lambda one: one.task)
    splits = {one.task: "train" if one.task.startswith("t") else "eval" for one in outputs}
    tasks = {id: {"title": "T", "context": f"Text of {id}.", "questions": [], "split": of} for id, of in splits.items()}
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "r", "pipeline": "seal-knowledge", **JUDGED}, [JUDGE], tasks, outputs)
    graded = hybrid("grade", path, "--grader", "knowledge")
    assert graded.code == 0
    assert "right minus that of base" in graded.stdout
    assert hybrid("report", path).code == 0
    page = (tmp_path / "report.html").read_text()
    assert "After learning what the writer of round 1 wrote, <b>52.4 %</b> of 21 questions are right" in page
    for said in (
        "trained on the passage",
        "texts of the writer of round 0",
        "Text of t0.",
        "another town",
        "no-text 1",
    ):
        assert said in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_ungraded_runs_have_a_page_too(hybrid: Hybrid, tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    write_outputs(path, {"id": "r", "pipeline": "seal-knowledge"}, [], {}, [record("p", 0, "base", None)])
    assert hybrid("report", path).code == 0
    assert "No answer about an evaluation passage has a verdict yet." in (tmp_path / "report.html").read_text()


def test_arms_are_named_by_their_text_and_training() -> None:
    names = ("base", "round-0-base", "round-0-01", "round-0-01.3", "given-00", "odd.x", "round-0-x.2")
    assert [_title(name) for name in names] == [
        "no training", "round 0 base", "text 2 of the writer of round 0",
        "text 2 of the writer of round 0, training 3", "text 1 of the given ones", "odd.x", "round 0 x.2",
    ]  # fmt: skip

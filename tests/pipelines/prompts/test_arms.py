"""Arms: models, prompts and settings on the same prompts, each with its score and its difference to the first."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graders.numeric import Numeric
from hybrid.canonical import decode, encode
from hybrid.errors import UsageError
from hybrid.grading.grade_file import grade_file
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Item, Output
from hybrid.settings import build
from hybrid.statistics.intervals import paired_difference
from hybrid.testing import check_pipeline
from pipelines.prompts.pipeline import Prompts
from tests.support.in_process import Hybrid

ARMS = ["usual", "short:system=Be brief, please.,max_tokens=5", "other:template=Say: {prompt}"]


def with_arms(*arms: str, texts: tuple[str, ...] = (), own: tuple[str, ...] = ()) -> Prompts:
    return build(Prompts, texts, given={"arms": list(arms), "own_models": list(own)})


def items(pipeline: Prompts, stage: int = 0) -> list[Item]:
    tasks = decode(encode(dict(pipeline.inputs().tasks)), what="tasks")
    return list(pipeline.stages()[stage].items(tasks))


def test_an_arm_asks_the_same_prompts_with_settings_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "One?", "system": "Row.", "max_tokens": 9}\n')
    pipeline = with_arms(*ARMS, texts=(f"data={tmp_path / 'p.jsonl'}", "samples=2"))
    asked = items(pipeline)
    assert [(one.view["arm"], one.sample) for one in asked] == [
        (arm, n) for arm in ("usual", "short", "other") for n in (0, 1)
    ]
    chats = {one.view["arm"]: [message.content for message in one.request.messages] for one in asked}
    assert chats == {
        "usual": ["Row.", "One?"], "short": ["Be brief, please.", "One?"], "other": ["Row.", "Say: One?"]
    }  # fmt: skip
    assert [one.request.sampling.max_tokens for one in asked[::2]] == [9, 5, 9]
    assert asked[0].request.sampling.seed == asked[2].request.sampling.seed
    assert pipeline.inputs().about["arms"] == ["usual", "short", "other"]


def test_arms_with_models_of_their_own_keep_what_every_pipeline_promises() -> None:
    pipeline = with_arms(*ARMS, own=("other",))
    check_pipeline(pipeline)
    stages = [(one.name, one.role, one.after) for one in pipeline.stages()[:3]]
    assert stages == [("answer", "", ()), ("answer-other", "other", ()), ("answers", "", ("answer", "answer-other"))]


@pytest.mark.parametrize(
    ("arms", "own", "words"),
    [
        (["Big"], [], "an arm cannot be named 'Big'"),
        (["judge"], [], "an arm cannot be named 'judge'"),
        (["a", "a"], [], "two arms are named 'a'"),
        (["a:samples=2"], [], "the arm 'a' cannot have the setting 'samples'"),
        (["a:temperatur=2"], [], "the arm 'a' cannot have the setting 'temperatur'"),
        (["a:max_tokens=none"], [], "setting 'max_tokens'"),
        (["a:max_tokens=0"], [], "the arm 'a': max_tokens=0 is not"),
        (["a:template={"], [], "the arm 'a': template has a single"),
        (["a", "b"], ["a"], "'a' is no arm that can have a model of its own"),
        (["a", "b"], ["c"], "'c' is no arm that can have a model of its own"),
    ],
)
def test_a_wrong_arm_is_refused(arms: list[str], own: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        with_arms(*arms, own=tuple(own))


def test_a_pipeline_without_arms_says_so(hybrid: Hybrid) -> None:
    done = hybrid("run", "local", "qa-eval", "--arm", "a")
    assert done.code == 2
    assert "qa-eval compares no arms of --arm" in done.stderr


def answered(arm: str, question: str, *texts: str | None) -> list[Output]:
    return [
        Output(
            f"{arm}-{question}-{n}", question[0], question, {"arm": arm}, n, text,
            None if text is not None else Failure("engine", "it stopped"), 4,
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


def graded(place: Path, outputs: list[Output], about: Mapping[str, Any]) -> dict[str, Any]:
    outputs.sort(key=lambda one: (one.task, one.question, one.sample, one.view["arm"]))
    tasks = {one.task: {} for one in outputs}
    write_outputs(place / "o.json", {"about": about}, [], tasks, iter(outputs), place)
    return grade_file(place / "o.json", Numeric(), "numeric", place / "g.json")


def test_each_arm_has_its_score_and_a_paired_difference_clustered_by_task(tmp_path: Path) -> None:
    outputs = [
        *answered("zero", "a/1", "4", "5"), *answered("big", "a/1", "4", "4"),
        *answered("zero", "a/2", "5", "5"), *answered("big", "a/2", "4", "5"),
        *answered("zero", "b/1", None, None), *answered("big", "b/1", "4", None),
        *answered("zero", "c/1", "4", "4"), *answered("big", "c/1", None, None),
        *answered("zero", "d/1", "4", "4"), *answered("big", "d/1", "4", "5"),
    ]  # fmt: skip
    summary = graded(tmp_path, outputs, {"arms": ["zero", "big"]})
    assert summary["arms"] == ["zero", "big"]
    assert (summary["n"], summary["score"]) == (4, pytest.approx((0.5 + 0 + 1 + 1) / 4))
    big = summary["controls"]["big"]
    assert (big["n"], big["score"]) == (4, pytest.approx((1 + 0.5 + 1 + 0.5) / 4))
    expected = paired_difference([("a", 1.0, 0.5), ("a", 0.5, 0.0), ("d", 0.5, 1.0)])
    assert (big["gain"], *big["gain_interval"], big["gain_n"]) == pytest.approx(expected)
    figures = summary["figures"]
    assert (figures["pass@2"]["n"], figures["pass@2@big"]["n"]) == (4, 3)
    assert figures["pass@2@big"]["mean"] == 1.0
    assert summary["ungraded"] == {"count": 1, "reasons": {"no output to grade": 1}}


def test_arms_that_no_run_names_are_compared_with_the_first_by_name(tmp_path: Path) -> None:
    outputs = [*answered("b", "a/1", "4"), *answered("a", "a/1", "5")]
    summary = graded(tmp_path, outputs, {})
    assert (summary["score"], summary["controls"]["b"]["score"]) == (0.0, 1.0)
    assert summary["arms"] == ["a", "b"]


@pytest.fixture(scope="module")
def run_of_arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of two models: the first is right in half of the sample, the other where it is asked for briefly."""
    place = tmp_path_factory.mktemp("arms")
    (place / "first.json").write_text('{"answers": {"What is the capital of France?": "Paris"}, "default": "no"}')
    (place / "other.json").write_text('{"answers": {"Which planet is called the red planet?": "Mars"}, "default": "?"}')
    return place


def test_arms_with_their_own_models_are_joined_graded_and_reported(run_of_arms: Path, hybrid: Hybrid) -> None:
    """The order of commands is that of a user: run, grade, report."""
    place, outputs = run_of_arms, run_of_arms / "o.json"
    models = [
        "--backend",
        "scripted",
        "--model",
        f"one={place / 'first.json'}",
        "--model",
        f"two={place / 'other.json'}",
    ]
    arms = ["--arm", "one", "--arm", "two", "--arm", "three:max_tokens=3", "--backend", "two=scripted"]
    done = hybrid("run", "local", "prompts", *models, *arms, "--folder", place / "f", "-o", outputs)
    assert (done.code, "answer-two: 12/12" in done.stderr) == (0, True)
    records = json.loads(outputs.read_text())["records"]
    assert len(records) == 36
    assert {one["view"]["arm"]: one["finish"] for one in records if one["question"] == "capital-france"} == {
        "one": "stop", "two": "stop", "three": "length",
    }  # fmt: skip
    assert all(one["tokens"][1] == len(one["text"]) for one in records)  # tokens survive the joining
    status = json.loads(hybrid("status", "prompts", "--folder", place / "f", "--json").stdout)
    assert status["spent"]["completion_tokens"] == sum(one["tokens"][1] for one in records)  # not twice
    table = hybrid("grade", outputs).stdout
    assert re.search(r"contains \(by question\) of one +12 +0\.0833", table)
    assert re.search(r"contains of two +12 +0\.0833", table)
    assert re.search(r"two - one +12 +0\.0000 +-0\.\d+ to 0\.\d+", table)
    assert re.search(r"three - one +12 +-0\.0833", table)
    assert "control: two" not in table
    (place / "better.json").write_text('{"answers": {}, "default": "x"}')
    pairs = hybrid("grade", outputs, "--grader", "pairwise", "--backend", "scripted", "--model", place / "better.json")
    assert "win rate" in pairs.stdout
    assert "pairwise of" not in pairs.stdout  # its scores are of pairs of arms, not of one
    assert hybrid("report", outputs, "-o", place / "r.html").code == 0
    page = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", (place / "r.html").read_text())
    assert "This is the arm one; the others: two 8.3 %, three 0.0 %." in page
    assert re.search(r"Against +one", page)
    assert re.search(r"two +\+0\.0 +−[\d.]+ to \+[\d.]+ +12 +1 +1 +0", page)
    assert "Answer of three" in page


def test_a_judge_judges_the_answers_of_every_arm(run_of_arms: Path, hybrid: Hybrid) -> None:
    place = run_of_arms
    (place / "judge.json").write_text(json.dumps({"answers": {}, "default": '{"correct": true}'}))
    models = ["--backend", "scripted", "--model", place / "first.json", "--model", f"two={place / 'other.json'}"]
    judge = ["--model", f"judge={place / 'judge.json'}", "--backend", "judge=scripted"]
    arms = ["--arm", "one", "--arm", "two", "--limit", "3"]
    done = hybrid("run", "local", "prompts", *models, *judge, *arms, "--folder", place / "j", "-o", place / "j.json")
    assert done.code == 0
    summary = json.loads(hybrid("grade", place / "j.json", "--json").stdout)["summary"]
    assert (summary["score"], summary["controls"]["two"]["score"], summary["judge"]["counts"]["by verdict"]) == (
        1,
        1,
        5,
    )

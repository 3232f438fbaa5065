"""The pipeline: which items, in which order, with what in them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from graders.arc import Arc
from hybrid.canonical import encode
from hybrid.errors import UsageError
from hybrid.protocols import Pipeline
from hybrid.records import Item, Output, Question
from hybrid.settings import build, freeze
from hybrid.tasks.arc.grid import Grid, grid_of
from hybrid.tasks.arc.text import FORMATS
from hybrid.tasks.arc.views import TRANSFORMS
from pipelines.seal.eval import SealEval
from tests.support.hash_seeds import printed_by_hash_seed

PAPER = build(SealEval, preset="paper")


@functools.cache
def items(pipeline: SealEval) -> list[Item]:
    return list(pipeline.stages()[0].items(pipeline.inputs().tasks))


def small(**settings: Any) -> SealEval:
    return SealEval(dataset="arc1-training", subset="small", **settings)


def test_it_is_a_pipeline_with_one_stage_on_the_gpu_side() -> None:
    assert isinstance(PAPER, Pipeline)
    assert [(stage.name, stage.side) for stage in PAPER.stages()] == [("answer", "gpu")]


@pytest.mark.slow
def test_the_paper_preset_asks_seals_queries_of_the_eight_tasks() -> None:
    asked = Counter(item.question for item in items(PAPER))
    tasks = PAPER.inputs().tasks
    expected = {2: 7, 3: 10, 4: 16, 5: 20}
    assert len(tasks) == 8
    assert asked == {
        f"{id}/{i}": expected[len(task["train"])] for id, task in tasks.items() for i in range(len(task["test"]))
    }
    assert len(asked) == 9  # one of the eight tasks has two test inputs, and both are asked


@pytest.mark.slow
def test_the_default_asks_eight_views_that_show_all_demonstrations() -> None:
    pipeline = SealEval(subset="seal-eval-8")
    tasks = pipeline.inputs().tasks
    for item in items(pipeline):
        assert sorted(item.view["train"]) == list(range(len(tasks[item.task]["train"])))
    assert set(Counter(item.question for item in items(pipeline)).values()) <= {6, 7, 8}


def test_a_task_with_two_test_inputs_is_never_cut_in_half() -> None:
    pipeline = SealEval(subset="seal-eval-8", limit=5)
    chosen = pipeline.inputs()
    assert list(chosen.tasks) == ["59341089", "66e6c45b", "68b67ca3", "903d1b4a", "b1fc8b8e"]
    assert {q for q in chosen.references if q.startswith("b1fc8b8e")} == {"b1fc8b8e/0", "b1fc8b8e/1"}


def test_no_solution_is_in_the_tasks_or_in_any_request(tmp_path: Path) -> None:
    secret = [[7, 7, 7, 7, 7]]
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    (tmp_path / "c.json").write_text(json.dumps({"t": {"train": [pair, pair], "test": [{"input": [[3, 4]]}]}}))
    (tmp_path / "s.json").write_text(json.dumps({"t": [secret]}))
    pipeline = SealEval(challenges=str(tmp_path / "c.json"), solutions=str(tmp_path / "s.json"))
    assert pipeline.inputs().references == {"t/0": secret}
    seen = encode([pipeline.inputs().tasks, *(dataclasses.asdict(item) for item in items(pipeline))]).decode()
    assert "77777" not in seen
    assert "7,7" not in seen
    assert items(pipeline) == items(SealEval(challenges=str(tmp_path / "c.json")))


def test_other_truths_give_the_same_requests(tmp_path: Path) -> None:
    task = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]], "output": [[4]]}]}
    other = {**task, "test": [{"input": [[3]], "output": [[5] * 30] * 30}]}
    keys = []
    for value in (task, other):
        (tmp_path / "c.json").write_text(json.dumps({"t": value}))
        pipeline = SealEval(challenges=str(tmp_path / "c.json"))
        keys.append([item.key("answer 1", "m") for item in pipeline.stages()[0].items(pipeline.inputs().tasks)])
    assert keys[0] == keys[1]


def test_the_chat_date_is_pinned_in_every_request() -> None:
    assert {item.request.template["date_string"] for item in items(small())} == {"26 Jul 2024"}


def test_every_answer_has_a_seed_of_its_own() -> None:
    asked = items(small(samples=3, temperature=0.7, limit=5))
    assert len({item.request.sampling.seed for item in asked}) == len(asked)
    assert all(0 <= item.request.sampling.seed < 2**31 for item in asked)


def test_items_have_distinct_keys_and_come_in_the_order_of_the_tasks() -> None:
    asked = items(small())
    assert len({item.key("answer 1", "m") for item in asked}) == len(asked)
    assert [item.task for item in asked] == sorted(item.task for item in asked)


def test_test_inputs_with_the_same_demonstrations_are_neighbours() -> None:
    asked = [item for item in items(SealEval(tasks=("b1fc8b8e",))) if item.view["transform"] == "identity"]
    assert [item.question[-1] for item in asked] == ["0", "1"] * (len(asked) // 2)
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        assert first.request.messages[:-1] == second.request.messages[:-1]


@pytest.mark.slow
def test_the_bound_is_never_below_the_true_answer() -> None:
    for format in ("compact", "seal"):
        pipeline = SealEval(subset="seal-eval", format=format)
        truths = pipeline.inputs().references
        for item in items(pipeline):
            truth = grid_of(truths[item.question])
            assert truth is not None
            assert item.request.sampling.max_tokens > len(FORMATS[format].write(truth))


def test_a_given_bound_and_instruction_are_taken() -> None:
    item = items(small(max_tokens=17, instruction="Solve it.", limit=1))[0]
    assert item.request.sampling.max_tokens == 17
    assert item.request.messages[0].content == "Solve it."


@pytest.mark.parametrize(
    "setting",
    [
        "include_n=3",
        "include_n=",
        "views=identity",
        "views=rot91",
        "permute_n=-1",
        "samples=0",
        "samples=2",
        "seed=-1",
        "limit=-1",
        "max_tokens=-1",
        "temperature=-1",
        "top_p=0",
        "date=",
        "solutions=s.json",
        "format=xml",
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(SealEval, [setting])


def test_a_misspelt_subset_and_view_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        build(SealEval, ["views=rot9"])
    assert "did you mean 'rot90'?" in error.value.hint
    with pytest.raises(UsageError) as error:
        SealEval(subset="seal-evl").inputs()
    assert "did you mean 'seal-eval'?" in error.value.hint


def test_settings_survive_freezing() -> None:
    frozen = freeze(PAPER)
    assert frozen["include_n"] == [1]
    assert frozen["format"] == "seal"


@pytest.mark.slow
def test_items_are_the_same_in_every_process() -> None:
    code = (
        "from hybrid.settings import build\nfrom pipelines.seal.eval import SealEval\n"
        "p = build(SealEval, preset='paper')\n"
        "print(*[item.key('answer 1', 'm') for item in p.stages()[0].items(p.inputs().tasks)])"
    )
    printed = printed_by_hash_seed(code, "0", "77")
    assert printed == {" ".join(item.key("answer 1", "m") for item in items(PAPER)) + "\n"}


def answered(pipeline: SealEval, wrong: str = "") -> list[Question]:
    """All questions as a model answers them that knows the truth, except in views of the transform `wrong`."""
    data = pipeline.inputs()
    outputs: dict[str, list[Output]] = {}
    for item in items(pipeline):
        truth: Grid = grid_of(data.references[item.question]) or ((0,),)
        if item.view["transform"] == wrong:
            truth = (*truth[1:], tuple((cell + 1) % 10 for cell in truth[0]))
        shown = FORMATS[item.view["format"]].write(TRANSFORMS[item.view["transform"]](truth))
        value = {"key": item.key("s", "m"), "task": item.task, "question": item.question, "view": item.view}
        output = Output.from_json({**value, "sample": item.sample, "text": shown, "finish": "stop"}, what="test")
        outputs.setdefault(item.question, []).append(output)
    return [
        Question(id.split("/")[0], id, data.references[id], tuple(each), data.tasks[id.split("/")[0]])
        for id, each in outputs.items()
    ]


@pytest.mark.parametrize("voting", ["flat", "seal"])
@pytest.mark.parametrize("pipeline", [PAPER, SealEval(subset="seal-eval-8")], ids=["paper", "default"])
def test_a_model_that_answers_perfectly_scores_one(pipeline: SealEval, voting: Any) -> None:
    grades = [Arc(voting=voting).grade_question(question) for question in answered(pipeline)]
    assert [grade.score for grade in grades] == [1.0] * 9
    assert all(grade.figures["parsed"] == grade.figures["top1"] == grade.figures["cells"] == 1.0 for grade in grades)


@pytest.mark.slow
def test_a_model_that_answers_transposed_views_wrongly_is_outvoted() -> None:
    for question in answered(SealEval(subset="seal-eval-8"), wrong="transpose"):
        grade = Arc().grade_question(question)
        assert grade.figures["top1"] == grade.score == 1.0
        assert grade.figures.get("view/transpose", 0.0) == 0.0
        assert grade.figures["view/identity"] == 1.0

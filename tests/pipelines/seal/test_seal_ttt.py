"""The pipeline: which model is asked what, what it is trained on, and how the base is held beside."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from graders.arc import Arc
from hybrid.canonical import encode
from hybrid.errors import UsageError
from hybrid.grading.grade_file import grade_file
from hybrid.protocols import Inputs, Pipeline
from hybrid.records import Example, Item
from hybrid.settings import build, freeze, restore
from hybrid.tasks.arc.grid import Grid, grid_of
from hybrid.tasks.arc.questions import ArcQuestionSettings
from hybrid.tasks.arc.text import FORMATS
from hybrid.tasks.arc.views import TRANSFORMS
from hybrid.tuning import SEAL_TARGETS, Tuning
from hybrid.work import Tune
from pipelines.seal.eval import SealEval
from pipelines.seal.ttt import SealTtt
from pipelines.seal.variants import variants
from tests.support.hash_seeds import printed_by_hash_seed

PAPER = build(SealTtt, preset="paper")
PUBLISHED = build(SealTtt, preset="seal")


@functools.cache
def read(**data: Any) -> Inputs:
    return SealEval(**data).inputs()


def inputs(pipeline: ArcQuestionSettings) -> Inputs:
    """The data of a pipeline, read once."""
    names = ("dataset", "challenges", "subset", "limit")
    return read(**{name: getattr(pipeline, name) for name in names})


@functools.cache
def items(pipeline: SealTtt | SealEval) -> list[Item]:
    return list(pipeline.stages()[0].items(inputs(pipeline).tasks))


def tuning_of(item: Item) -> Tuning:
    assert item.request.tuning
    return item.request.tuning


def examples(pipeline: SealTtt, item: Item) -> tuple[Example, ...]:
    (stage,) = pipeline.stages()
    assert isinstance(stage.work, Tune)
    return tuple(stage.work.examples(inputs(pipeline).tasks, tuning_of(item).examples))


def own(tmp_path: Path, *names: str, test: Any = None) -> dict[str, str]:
    """Settings for tasks of our own, each with two test inputs."""
    pairs = [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3, 4]], "output": [[4, 3]]}]
    task = {"train": pairs, "test": test or [{"input": [[5, 6]]}, {"input": [[6, 7]]}]}
    (tmp_path / "c.json").write_text(json.dumps(dict.fromkeys(names, task)))
    return {"challenges": str(tmp_path / "c.json")}


def test_it_is_a_pipeline_with_one_stage_on_the_gpu_side_that_has_examples() -> None:
    assert isinstance(PAPER, Pipeline)
    (stage,) = PAPER.stages()
    assert (stage.name, stage.side, stage.after, type(stage.work)) == ("answer", "gpu", (), Tune)


def test_the_paper_preset_trains_as_the_papers_oracle() -> None:
    assert len(inputs(PAPER).tasks) == 8
    for item in items(PAPER):
        if how := item.request.tuning:
            assert (how.learning_rate, how.epochs, how.batch, how.warmup, how.schedule) == (1e-4, 2, 2, 11, "cosine")
            assert (how.rank, how.alpha, how.targets, how.clip, how.weight_decay) == (128, 16.0, SEAL_TARGETS, 1.0, 0.0)
            assert (how.learned, how.padding, how.texts) == ("answer", "masked", "clean")
            assert how.examples["augmentations"] == ["basic", "size", "chain", "repeat"]
            assert (how.examples["leave_n"], how.examples["most"], how.examples["colours"]) == ([1, 2], 250, True)


def test_the_seal_preset_has_what_was_published_with_its_faults() -> None:
    how = tuning_of(items(PUBLISHED)[0])
    assert (how.padding, how.texts, how.examples["translation"]) == ("seal", "seal", "seal")


def test_questions_are_those_of_seal_eval_twice_once_with_a_training() -> None:
    beside = items(build(SealEval, preset="paper"))
    trained = [item for item in items(PAPER) if item.request.tuning]
    base = [item for item in items(PAPER) if not item.request.tuning]
    assert len(trained) == len(base) == len(beside)
    for with_, without, plain in zip(trained, base, beside, strict=True):
        assert with_.request.messages == without.request.messages == plain.request.messages
        assert with_.request.sampling == without.request.sampling == plain.request.sampling
        assert with_.question == without.question == plain.question
        assert with_.view == plain.view
        assert without.view == {**plain.view, "arm": "base"}
    assert len({item.key("answer/1", "m") for item in items(PAPER)}) == len(items(PAPER))


def test_a_task_has_one_training_for_all_its_test_inputs(tmp_path: Path) -> None:
    """Trap: SEAL counts test inputs as tasks, and cuts tasks in half."""
    pipeline = SealTtt(**own(tmp_path, "a", "b"), limit=1)
    trained = [item for item in items(pipeline) if item.request.tuning]
    assert {item.question for item in trained} == {"a/0", "a/1"}
    assert len({tuning_of(item).digest for item in trained}) == 1
    both = [item for item in items(SealTtt(**own(tmp_path, "a", "b"))) if item.request.tuning]
    assert len({tuning_of(item).digest for item in both}) == 2


def test_without_controls_only_the_trained_model_is_asked() -> None:
    alone = items(build(SealTtt, ["controls="], preset="paper"))
    assert alone == [item for item in items(PAPER) if item.request.tuning]


def test_the_views_leave_one_demonstration_out_as_the_examples_do() -> None:
    assert SealTtt().include_n == (1,)
    tasks = inputs(PAPER).tasks
    assert {len(tasks[item.task]["train"]) - len(item.view["train"]) for item in items(PAPER)} == {1}


@pytest.mark.parametrize("pipeline", [PAPER, SealTtt(subset="seal-train", dataset="arc1-training", limit=2)])
def test_the_examples_of_a_task_are_its_variants_in_the_words_of_its_questions(pipeline: SealTtt) -> None:
    item = items(pipeline)[0]
    pairs = [(grid_of(one["input"]), grid_of(one["output"])) for one in inputs(pipeline).tasks[item.task]["train"]]
    made = examples(pipeline, item)
    assert len(made) == len(variants(pairs))  # type: ignore[arg-type]
    assert {one.messages[-1].role for one in made} == {"assistant"}
    assert {one.template["date_string"] for one in made} == {"26 Jul 2024"}
    assert {one.messages[0].content.partition("\n")[0] for one in made} == {
        item.request.messages[0].content.partition("\n")[0]
    }


def test_no_solution_is_in_any_request_training_or_example(tmp_path: Path) -> None:
    """Trap: SEAL holds the test outputs in memory while it trains, and a copy of it trained on them."""
    seen = []
    for truth in (None, [[5] * 30] * 30):
        test = [{"input": [[5, 6]], **({"output": truth} if truth else {})}]
        pipeline = SealTtt(**own(tmp_path, "t", test=test))
        keys = [item.key("answer/1", "m") for item in pipeline.stages()[0].items(pipeline.inputs().tasks)]
        (stage,) = pipeline.stages()
        item = next(iter(stage.items(pipeline.inputs().tasks)))
        assert isinstance(stage.work, Tune)
        seen.append((keys, stage.work.examples(pipeline.inputs().tasks, tuning_of(item).examples)))
    assert seen[0] == seen[1]


def test_other_demonstrations_under_the_same_id_are_another_training(tmp_path: Path) -> None:
    first = tuning_of(items(SealTtt(**own(tmp_path, "t")))[0])
    value = json.loads((tmp_path / "c.json").read_text())
    value["t"]["train"][1]["output"] = [[4, 4]]
    (tmp_path / "c.json").write_text(json.dumps(value))
    pipeline = SealTtt(challenges=str(tmp_path / "c.json"))
    assert tuning_of(next(iter(pipeline.stages()[0].items(pipeline.inputs().tasks)))).digest != first.digest


@pytest.mark.parametrize(
    "setting",
    [
        *("learned=all", "learning_rate=0.001", "epochs=3", "batch=4", "rank=16", "alpha=2", "warmup=0", "clip=0"),
        *("schedule=linear", "targets=q_proj", "padding=seal", "texts=seal", "augmentations=basic", "augmentations="),
        *("leave_n=1", "most=100", "colours=false", "translation=seal", "seed=1", "format=compact", "date=1 Jan 2025"),
    ],
)
def test_every_setting_of_the_training_is_in_its_name(setting: str) -> None:
    changed = build(SealTtt, [setting], preset="paper")
    assert tuning_of(items(changed)[0]).digest != tuning_of(items(PAPER)[0]).digest


@pytest.mark.parametrize(
    "setting",
    [
        *("augmentations=concat", "controls=random", "controls=base,base", "leave_n=0", "leave_n=", "most=0"),
        *("learning_rate=0", "learning_rate=nan", "epochs=0", "rank=0", "rank=5000", "batch=0", "clip=-1", "targets="),
        *("padding=none", "learned=input", "include_n=3", "date="),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(SealTtt, [setting])


def test_a_misspelt_augmentation_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        build(SealTtt, ["augmentations=basics"])
    assert "did you mean 'basic'?" in error.value.hint


def test_settings_survive_freezing() -> None:
    for pipeline in (PAPER, PUBLISHED, SealTtt()):
        assert restore(SealTtt, json.loads(encode(freeze(pipeline)))) == pipeline


@pytest.mark.slow
def test_items_are_the_same_in_every_process() -> None:
    code = (
        "from hybrid.settings import build\nfrom pipelines.seal.ttt import SealTtt\n"
        "p = build(SealTtt, preset='paper')\n"
        "print(*[item.key('answer/1', 'm') for item in p.stages()[0].items(p.inputs().tasks)])"
    )
    printed = printed_by_hash_seed(code, "0", "77")
    assert printed == {" ".join(item.key("answer/1", "m") for item in items(PAPER)) + "\n"}


def answered(pipeline: SealTtt, path: Path, base_knows: set[str], broken: str = "") -> None:
    """An outputs file as of a trained model that knows all, and a base that knows some tasks."""
    truths = inputs(pipeline).references
    lines = []
    for item in items(pipeline):
        truth: Grid = grid_of(truths[item.question]) or ((0,),)
        if item.view.get("arm") == "base" and item.task not in base_knows:
            truth = (*truth[1:], tuple((cell + 1) % 10 for cell in truth[0]))
        shown = FORMATS[item.view["format"]].write(TRANSFORMS[item.view["transform"]](truth))
        value = {"key": item.key("s", "m"), "task": item.task, "question": item.question, "view": item.view}
        said: dict[str, Any] = {"text": shown, "finish": "stop"}
        if item.task == broken and "arm" in item.view:
            said = {"error": {"kind": "too-long", "message": "9,000 tokens"}}
        lines.append(json.dumps({**value, **said, "reference": truths[item.question]}))
    path.write_text("\n".join(lines) + "\n")


def test_the_base_stands_beside_the_score_with_the_gain_over_it(tmp_path: Path) -> None:
    tasks = sorted(inputs(PAPER).tasks)
    answered(PAPER, tmp_path / "o.jsonl", base_knows=set(tasks[:3]))
    summary = grade_file(tmp_path / "o.jsonl", Arc(), "arc", tmp_path / "g.json")
    assert (summary["score"], summary["n"], summary["questions"]) == (1.0, 8, 9)
    base = summary["controls"]["base"]
    assert (base["score"], base["n"], base["gain"]) == (3 / 8, 8, 5 / 8)
    low, high = base["gain_interval"]
    assert 0.0 < low < 5 / 8 < high <= 1.0
    assert summary["figures"]["top1"]["mean"] == 1.0
    assert summary["figures"]["top1@base"]["mean"] < 0.5 < summary["figures"]["cells@base"]["mean"]
    grades = json.loads((tmp_path / "g.json").read_text())["grades"]
    assert {grade["controls"]["base"] for grade in grades} == {0.0, 1.0}


def test_a_base_that_failed_is_no_control_of_that_task_and_changes_no_score(tmp_path: Path) -> None:
    tasks = sorted(inputs(PAPER).tasks)
    answered(PAPER, tmp_path / "o.jsonl", base_knows=set(), broken=tasks[0])
    summary = grade_file(tmp_path / "o.jsonl", Arc(), "arc", tmp_path / "g.json")
    assert (summary["score"], summary["n"]) == (1.0, 8)
    assert (summary["controls"]["base"]["n"], summary["controls"]["base"]["gain"]) == (7, 1.0)

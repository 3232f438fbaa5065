"""ReST-EM: what is rewarded, what the next model is trained on, and what the evaluation tasks never touch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError, Waits
from hybrid.protocols import Inputs, Pipeline
from hybrid.records import Failure, Item, Output
from hybrid.settings import build
from hybrid.tasks.arc.grid import grid_of
from hybrid.tasks.arc.text import FORMATS
from hybrid.tasks.arc.views import TRANSFORMS
from hybrid.work import Derive, Tune
from pipelines.seal.grader import SelfEdit
from pipelines.seal.restem import SealRestem
from tests.support.stages_in_memory import items_of, run_stages

GOOD_RATE = 2e-4


def edit(rate: float = GOOD_RATE, epochs: int = 1, space: str = "") -> str:
    """A reply that holds a configuration; `space` makes another text of the same one."""
    tools = {f"use_{name}_augmentations": False for name in ("basic", "size", "chain", "repeat")}
    training = {"strategy": "train_using_output_tokens", "learning_rate": rate, "num_train_epochs": epochs}
    return json.dumps({"data_generation": tools, "training": training}) + space


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Four tasks in one file: a and b to learn from, y and z to evaluate on."""
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({id: task(number) for number, id in enumerate("abyz")}))
    return str(path)


def task(number: int, truth: int = 9) -> dict[str, Any]:
    pairs = [{"input": [[number, i]], "output": [[i, number]]} for i in range(1, 4)]
    return {"train": pairs, "test": [{"input": [[number, 5]], "output": [[truth, number]]}]}


def small(data: str, **settings: Any) -> SealRestem:
    given = {"subset": "", "eval_subset": "", "tasks": ("a", "b"), "eval_tasks": ("y", "z")}
    few = {"edits": 3, "eval_edits": 2, "randoms": 1, "views": (), "permute_n": 0}
    return SealRestem(challenges=data, **{**given, **few, **settings})


class Learner:
    """A model that replies in turn and solves what it was trained on at the good rate; it knows of each policy."""

    def __init__(self, inputs: Inputs, replies: dict[str, list[str]], fails: str = "") -> None:
        self._inputs, self._replies, self._fails = inputs, replies, fails
        self.asked: list[Item] = []
        self.policies: list[Item] = []

    def __call__(self, item: Item) -> str | Failure:
        self.asked.append(item)
        if item.question.startswith("policy-"):
            return self._train(item)
        if "transform" not in item.view:
            replies = self._replies[item.task]
            return replies[item.sample % len(replies)]
        truth = grid_of(self._inputs.references[item.question.partition("@")[0]])
        assert truth is not None
        tuning = item.request.tuning
        if not (tuning and tuning.learning_rate == GOOD_RATE):
            truth = ((0,),)
        return FORMATS[str(item.view["format"])].write(TRANSFORMS[str(item.view["transform"])](truth))

    def _train(self, item: Item) -> str | Failure:
        self.policies.append(item)
        tuning = item.request.tuning
        assert tuning is not None
        if self._fails:
            return Failure("memory", self._fails)
        return encode({"adapter": named(item), "steps": 8, "tokens": 100, "loss": [1.0, 0.5]}).decode()


def named(policy: Item) -> str:
    assert policy.request.tuning is not None
    start = policy.request.adapter.digest if policy.request.adapter else ""
    return hashlib.sha256(f"{start} {policy.request.tuning.digest}".encode()).hexdigest()


def learned(
    pipeline: SealRestem, replies: dict[str, list[str]], fails: str = ""
) -> tuple[dict[str, list[Output]], Learner]:
    inputs = pipeline.inputs()
    learner = Learner(inputs, replies, fails)
    return run_stages(pipeline, inputs, learner), learner


REPLIES = {
    "a": [edit(), edit(1e-3), edit(space="\n")],  # right, wrong, right in other words
    "b": ["no", "no", "no"],
    "y": [edit(), "no"],
    "z": [edit(1e-3), edit(1e-3)],
}


def test_rounds_are_stages_that_see_no_more_than_they_name(data: str) -> None:
    pipeline = small(data)
    assert isinstance(pipeline, Pipeline)
    assert [stage.name for stage in pipeline.stages()] == [
        "sample-0", "answer-0", "edits-0", "policy-1",
        "sample-1", "answer-1", "edits-1", "policy-2",
        "sample-2", "answer-2", "edits-2", "curve",
    ]  # fmt: skip
    for stage in pipeline.stages():
        assert stage.reads_references is stage.name.startswith("policy-")
        assert isinstance(stage.work, Derive) is stage.name.startswith(("edits-", "curve"))
        assert isinstance(stage.work, Tune) is stage.name.startswith(("answer-", "policy-"))


def test_a_round_learns_what_was_rewarded_and_the_next_asks_the_new_model(data: str) -> None:
    done, learner = learned(small(data), REPLIES)
    first, second = learner.policies
    assert first.request.tuning is not None
    assert second.request.tuning is not None
    assert first.request.tuning.examples["kept"] == [["a", edit()]]
    assert (first.request.tuning.keep, first.request.messages, first.request.prompt) == (True, (), "")
    how = first.request.tuning
    assert (how.rank, how.alpha, how.epochs, how.batch, how.learning_rate) == (16, 16.0, 8, 5, 5e-5)
    assert (how.schedule, how.warmup, how.learned) == ("cosine", 0, "answer")
    assert first.request.adapter is None
    assert second.request.adapter is not None
    assert second.request.adapter.digest == named(first)
    adapters: dict[str, set[str]] = {}
    for item in learner.asked:
        if not item.question.startswith("policy-") and "transform" not in item.view:
            name = item.question.partition("@")[2][: len("round-0")]
            adapters.setdefault(name, set()).add(item.request.adapter.digest if item.request.adapter else "")
    assert adapters == {"round-0": {""}, "round-1": {named(first)}, "round-2": {named(second)}}
    tuned = {item.request.adapter.digest for item in learner.asked if item.request.tuning and item.request.adapter}
    assert tuned == {named(first), named(second)}  # the new model is what is trained on a task, too
    assert len(done["curve"]) == 2 * (2 * 3 + 2 * 2) + 2 * 2


def test_published_keeps_every_rewarded_sample_and_balanced_the_different_ones(data: str) -> None:
    replies = {**REPLIES, "a": [edit(), edit(space=" "), edit(epochs=2), edit(epochs=3)], "b": [edit()]}
    kept = {}
    for balance in ("balanced", "published"):
        pipeline = small(data, edits=8, balance=balance, per_task=2)
        _, learner = learned(pipeline, replies)
        assert learner.policies[0].request.tuning is not None
        kept[balance] = learner.policies[0].request.tuning.examples["kept"]
    assert kept["balanced"] == [["a", edit()], ["a", edit(epochs=2)], ["b", edit()]]
    assert Counter(id for id, _ in kept["published"]) == {"a": 8, "b": 8}
    assert kept["published"].count(["b", edit()]) == 8


def test_nothing_rewarded_leaves_the_model_as_it_was(data: str) -> None:
    done, learner = learned(small(data), {id: [edit(1e-3)] for id in "abyz"})
    assert learner.policies == []
    assert done["policy-1"] == done["policy-2"] == []
    assert {item.request.adapter for item in learner.asked} == {None}
    assert {json.loads(one.text or "")["policy"] for one in done["curve"]} == {""}


def test_a_round_that_rewards_nothing_goes_on_with_the_newest_model(data: str) -> None:
    pipeline = small(data)
    done, learner = learned(pipeline, REPLIES)
    done["policy-2"] = []
    (stage,) = (one for one in pipeline.stages() if one.name == "sample-2")
    adapters = {item.request.adapter for item in items_of(stage, pipeline.inputs(), done)}
    assert {one.digest for one in adapters if one} == {named(learner.policies[0])}


def test_what_was_right_without_training_is_not_learned(data: str) -> None:
    class Knowing(Learner):
        def __call__(self, item: Item) -> str | Failure:
            if "transform" in item.view and item.request.tuning is None:
                truth = grid_of(self._inputs.references[item.question.partition("@")[0]])
                assert truth is not None
                return FORMATS[str(item.view["format"])].write(TRANSFORMS[str(item.view["transform"])](truth))
            return super().__call__(item)

    pipeline = small(data)
    inputs = pipeline.inputs()
    learner = Knowing(inputs, {id: ["no", edit(0.09, 1000)] for id in "abyz"})
    done = run_stages(pipeline, inputs, learner)
    assert {SelfEdit().grade(one).score for one in done["curve"]} == {1.0}
    assert learner.policies == []


def test_a_policy_that_could_not_be_trained_stops_the_run_and_is_not_replaced_by_the_old_one(data: str) -> None:
    with pytest.raises(Waits, match="policy-1 was not trained: memory: full"):
        learned(small(data), REPLIES, fails="full")


@pytest.mark.parametrize("text", ['{"adapter": "x"}', "[]", '{"adapter": null}', '{"adapter": 7}', "{"])
def test_a_policy_record_that_names_no_adapter_is_refused(data: str, text: str) -> None:
    pipeline = small(data)
    (stage,) = (one for one in pipeline.stages() if one.name == "sample-1")
    with pytest.raises(BadData):
        items_of(stage, pipeline.inputs(), {"policy-1": [Output("k", "policy", "policy-1", {}, 0, text, None, None)]})


def test_the_examples_are_the_question_as_it_was_asked_and_the_reply(data: str) -> None:
    pipeline = small(data)
    inputs = pipeline.inputs()
    _, learner = learned(pipeline, REPLIES)
    (stage,) = (one for one in pipeline.stages() if one.name == "policy-1")
    assert isinstance(stage.work, Tune)
    assert learner.policies[0].request.tuning is not None
    about = learner.policies[0].request.tuning.examples
    (example,) = stage.work.examples(inputs.tasks, about)
    asked = next(item for item in learner.asked if item.question == "a@round-0-edit-00")
    assert example.messages[:-1] == asked.request.messages
    assert (example.messages[-1].role, example.messages[-1].content) == ("assistant", edit())
    assert example.template == asked.request.template
    other = {**inputs.tasks, "a": {**inputs.tasks["a"], "train": inputs.tasks["b"]["train"]}}
    for tasks, said in ((other, about), (inputs.tasks, {}), (inputs.tasks, {**about, "kept": [["q", "x"]]})):
        with pytest.raises(BadData):
            stage.work.examples(tasks, said)


def test_the_truths_of_evaluation_tasks_change_nothing_that_is_trained(tmp_path: Path) -> None:
    keys = []
    for truth in (9, 4):
        path = tmp_path / "tasks.json"
        path.write_text(json.dumps({id: task(n, truth if id in "yz" else 9) for n, id in enumerate("abyz")}))
        pipeline = small(str(path))
        _, learner = learned(pipeline, REPLIES)
        keys.append([item.key("s", "m") for item in learner.asked])
    assert keys[0] == keys[1]


def test_one_grading_gives_the_reward_of_every_round_and_split(data: str) -> None:
    done, _ = learned(small(data), REPLIES)
    figures: dict[str, list[float]] = {}
    for output in done["curve"]:
        for name, value in SelfEdit().grade(output).figures.items():
            figures.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in figures.items() if name.startswith("round-")}
    assert means["round-0/train"] == pytest.approx(2 / 6)
    assert means["round-1/train"] == pytest.approx(2 / 6)
    assert means["round-2/eval"] == pytest.approx(1 / 4)
    assert means["round-2/eval/base"] == 0.0
    assert "round-2/train" not in means
    assert len({one.question for one in done["curve"]}) == len(done["curve"])


def test_a_task_is_in_one_split_only(data: str) -> None:
    with pytest.raises(UsageError, match="task 'b' is both a training task and an evaluation task"):
        small(data, eval_tasks=("b", "z")).inputs()


@pytest.mark.slow
def test_seals_subsets_are_the_default_by_id() -> None:
    inputs = SealRestem().inputs()
    splits = Counter(task["split"] for task in inputs.tasks.values())
    assert splits == {"train": 12, "eval": 8}
    assert len([id for id in inputs.references if "/" not in id]) == 20
    assert inputs.about["grader"] == "self-edit"


@pytest.mark.parametrize(
    "setting",
    ["rounds=0", "rounds=21", "eval_edits=0", "per_task=0", "eval_limit=-1", "policy_rank=0", "policy_epochs=0",
     "policy_learning_rate=0", "balance=none", "policy_batch=0"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(SealRestem, [setting])


def test_the_presets_can_be_built() -> None:
    assert dataclasses.asdict(build(SealRestem, preset="paper"))["balance"] == "published"
    assert build(SealRestem, preset="seal").voting == "seal"

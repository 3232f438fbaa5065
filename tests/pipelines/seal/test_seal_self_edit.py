"""Self-edits from the first request to the result: which are trained, what stands beside, what failed."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import encode
from hybrid.errors import UsageError
from hybrid.protocols import Inputs, Pipeline
from hybrid.records import Failure, Item, Output
from hybrid.settings import build
from hybrid.tasks.arc.grid import grid_of
from hybrid.tasks.arc.text import FORMATS
from hybrid.tasks.arc.views import TRANSFORMS
from hybrid.work import Ask, Derive, Tune
from pipelines.seal.augmentation import GROUPS
from pipelines.seal.configurations import PAPER, drawn
from pipelines.seal.edit_results import EditResult
from pipelines.seal.examples import training_examples
from pipelines.seal.grader import SelfEdit
from pipelines.seal.self_edit import SealSelfEdit
from tests.support.stages_in_memory import items_of, run_stages


def grid(*rows: str) -> list[list[int]]:
    return [[int(cell) for cell in row] for row in rows]


def task(tests: int, seed: int) -> dict[str, Any]:
    """A task whose rule is to mirror: three demonstrations and so many test inputs."""
    inputs = [grid(f"{seed}{i}0", f"0{i}{seed}") for i in range(1, 4 + tests)]
    pairs = [{"input": one, "output": [row[::-1] for row in one]} for one in inputs]
    return {"train": pairs[:3], "test": pairs[3:]}


def edit(rate: float = 1e-4, epochs: int = 1, *, size: bool = False) -> str:
    """A reply that holds a configuration."""
    tools = {f"use_{name}_augmentations": name == "basic" or (size and name == "size") for name in ("basic", "size")}
    tools |= {"use_chain_augmentations": False, "use_repeat_augmentations": False}
    training = {"strategy": "train_using_output_tokens", "learning_rate": rate, "num_train_epochs": epochs}
    return json.dumps({"data_generation": tools, "training": training})


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two tasks, the second with two test inputs."""
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({"aa": task(1, 4), "bb": task(2, 7)}))
    return str(path)


def small(data: str, **settings: Any) -> SealSelfEdit:
    return SealSelfEdit(challenges=data, **{"edits": 3, "randoms": 1, **settings})


class Solver:
    """Replies in turn, and answers as one that knows the truth where `knows` says so."""

    def __init__(self, inputs: Inputs, replies: list[str | Failure], knows: Any) -> None:
        self._inputs, self._replies, self._knows = inputs, replies, knows
        self.asked: list[Item] = []

    def __call__(self, item: Item) -> str | Failure:
        self.asked.append(item)
        if "transform" not in item.view:
            return self._replies[item.sample % len(self._replies)]
        truth = grid_of(self._inputs.references[item.question.partition("@")[0]])
        assert truth is not None
        if not self._knows(item):
            truth = tuple([tuple([(cell + 1) % 10 for cell in row]) for row in truth])
        return FORMATS[str(item.view["format"])].write(TRANSFORMS[str(item.view["transform"])](truth))


def tried(pipeline: SealSelfEdit, replies: list[str | Failure], knows: Any) -> tuple[list[Output], Solver]:
    inputs = pipeline.inputs()
    solver = Solver(inputs, replies, knows)
    return run_stages(pipeline, inputs, solver)["edits"], solver


def result(output: Output) -> EditResult:
    return EditResult.from_text(output.text or "")


def rate_is(rate: float) -> Any:
    """Solves after training with that learning rate alone."""
    return lambda item: item.request.tuning is not None and item.request.tuning.learning_rate == rate


def test_it_is_a_pipeline_of_three_stages_the_last_of_which_asks_nothing(data: str) -> None:
    assert isinstance(small(data), Pipeline)
    stages = small(data).stages()
    assert [(one.name, one.side, one.after, type(one.work), one.reads_references) for one in stages] == [
        ("sample", "gpu", (), Ask, False),
        ("answer", "gpu", ("sample",), Tune, False),
        ("edits", "any", ("sample", "answer"), Derive, False),
    ]


def test_requests_for_self_edits_show_no_test_input_and_have_seeds_and_numbers_of_their_own(data: str) -> None:
    pipeline = small(data, edits=15)
    tasks = pipeline.inputs().tasks
    items = list(pipeline.stages()[0].items(tasks))
    assert [item.question for item in items[:2]] == ["aa@edit-00", "aa@edit-01"]
    assert Counter(item.task for item in items) == {"aa": 15, "bb": 15}
    assert len({item.request.sampling.seed for item in items}) == 30
    shown = "\n".join(" ".join(map(str, row)) for row in tasks["aa"]["test"][0]["input"])
    assert all(shown not in message.content for message in items[0].request.messages)
    how = items[0].request
    assert (how.sampling.temperature, how.sampling.max_tokens, how.schema) == (0.8, 128, None)
    assert how.template == {"date_string": "26 Jul 2024"}
    assert next(iter(small(data, schema=True).stages()[0].items(tasks))).request.schema is not None


def test_equal_self_edits_are_trained_and_asked_once(data: str) -> None:
    outputs, solver = tried(small(data, edits=6), [edit(), edit(2e-4), edit()], rate_is(2e-4))
    tunings = {item.request.tuning.digest for item in solver.asked if item.request.tuning}
    assert len(tunings) == 2 * 4  # two self-edits, the fixed and a random one, for each of two tasks
    answers = Counter(item.key("answer", "m") for item in solver.asked)
    assert set(answers.values()) == {1}
    assert [result(one).first for one in outputs[:6]] == [True, True, False, False, False, False]
    grades = [SelfEdit().grade(one) for one in outputs]
    assert [grade.score for grade in grades] == [0, 1, 0, 0, 1, 0] * 2
    assert [grade.figures["distinct"] for grade in grades[:6]] == [1, 1, 0, 0, 0, 0]


def test_a_random_configuration_that_a_self_edit_names_too_is_the_same_arm(data: str) -> None:
    said = drawn(0, "aa", 0)
    reply = {
        "data_generation": {f"use_{name}_augmentations": name in said.augmentations for name in GROUPS},
        "training": {"strategy": said.strategy, "learning_rate": said.learning_rate, "num_train_epochs": said.epochs},
    }
    pipeline = small(data, edits=1, tasks=("aa",))
    outputs, solver = tried(pipeline, [json.dumps(reply)], lambda item: True)
    assert len({item.request.tuning.digest for item in solver.asked if item.request.tuning}) == 2
    assert result(outputs[0]).random == (result(outputs[0]).attempts,)


def test_what_is_no_self_edit_trains_nothing_and_has_the_attempts_of_the_base(data: str) -> None:
    replies: list[str | Failure] = ["I think", edit(5.0), edit(1e-4, 900)]
    outputs, solver = tried(small(data), replies, lambda item: item.request.tuning is None)
    reasons = ["no JSON object", "learning_rate is not over 0 or is over 0.1", "more than 375 steps"]
    assert [result(one).untrained for one in outputs[:3]] == reasons
    assert {item.request.tuning.learning_rate for item in solver.asked if item.request.tuning} <= {
        1e-4,
        *(drawn(0, id, 0).learning_rate for id in ("aa", "bb")),
    }
    for output in outputs:
        grade = SelfEdit().grade(output)
        assert (grade.score, grade.arms["base"], grade.figures["trained"]) == (1.0, 1.0, 0.0)
        assert (grade.arms["fixed"], grade.arms["random"]) == (0.0, 0.0)
    assert [SelfEdit().grade(one).figures["valid"] for one in outputs[:3]] == [0, 0, 1]


def test_the_bound_on_steps_counts_the_texts_that_there_are(data: str) -> None:
    pipeline = small(data)
    tasks = pipeline.inputs().tasks
    reply = Output("k", "aa", "aa@edit-00", {}, 0, edit(1e-4, 4), None, None)
    tuning = pipeline.plan("aa", tasks["aa"], reply).tuning
    assert tuning is not None
    count = len(training_examples(tasks, tuning.examples))
    most = 375 * 2 // count + 1
    for epochs, trained in ((most - 1, True), (most + 1, False)):
        said = dataclasses.replace(reply, text=edit(1e-4, epochs))
        assert (epochs * count // 2 <= 375) is trained
        assert (pipeline.plan("aa", tasks["aa"], said).tuning is not None) is trained


def test_every_arm_has_the_same_views_so_that_scores_can_be_compared(data: str) -> None:
    _, solver = tried(small(data), [edit(), edit(2e-4), "no"], lambda item: True)
    views: dict[str, Counter[str]] = {}
    for item in solver.asked:
        if "transform" in item.view:
            question, _, arm = item.question.partition("@")
            views.setdefault(question, Counter())[arm] += 1
    assert set(views) == {"aa/0", "bb/0", "bb/1"}
    for counts in views.values():
        assert len(set(counts.values())) == 1
        assert {"base"} < set(counts)


def test_a_task_is_right_when_all_its_test_inputs_are_and_is_never_cut_in_half(data: str) -> None:
    outputs, _ = tried(small(data), [edit()], lambda item: not item.question.startswith("bb/1"))
    grades = {one.question: SelfEdit().grade(one) for one in outputs}
    assert grades["aa@edit-00"].score == 1.0
    assert grades["bb@edit-00"].score == 0.0
    pipeline = small(data, limit=1)
    assert set(pipeline.inputs().references) == {"aa", "aa/0"}


def test_an_engine_that_failed_is_no_wrong_answer(data: str) -> None:
    class Dying(Solver):
        def __call__(self, item: Item) -> str | Failure:
            tuning = item.request.tuning
            failing = tuning is not None and tuning.learning_rate == 2e-4
            return Failure("engine", "out of memory") if failing else super().__call__(item)

    pipeline = small(data, edits=3, randoms=0)
    inputs = pipeline.inputs()
    replies: list[str | Failure] = [edit(2e-4), edit(3e-4), Failure("too-long", "the prompt")]
    outputs = run_stages(pipeline, inputs, Dying(inputs, replies, lambda item: True))["edits"]
    grades = [SelfEdit().grade(one) for one in outputs[:3]]
    assert [grade.score for grade in grades] == [None, 1.0, None]
    assert [grade.reason for grade in grades] == ["no answer: engine", "", "no answer: no reply: too-long"]
    assert "any-right" not in grades[0].figures


def test_any_right_is_counted_once_a_task(data: str) -> None:
    outputs, _ = tried(small(data, edits=4), [edit(), edit(2e-4)], rate_is(2e-4))
    grades = [SelfEdit().grade(one) for one in outputs]
    assert [grade.figures.get("any-right") for grade in grades] == [1.0, None, None, None] * 2
    assert [grade.figures.get("any-right/random") for grade in grades] == [0.0, None, None, None] * 2
    assert grades[0].score == 0.0


def test_the_steps_are_those_that_the_training_tells(data: str) -> None:
    outputs, _ = tried(small(data), [edit(1e-4, 2), "no", edit(1e-4, 1)], lambda item: True)
    assert [result(one).steps for one in outputs[:3]] == [20, 0, 10]
    assert SelfEdit().grade(outputs[0]).figures["steps"] == pytest.approx(20 / 375)
    assert "steps" not in SelfEdit().grade(outputs[1]).figures


def test_other_truths_give_the_same_items_at_every_stage(tmp_path: Path) -> None:
    keys = []
    for colour in (3, 8):
        value = {"aa": task(1, 4)}
        value["aa"]["test"] = [{**one, "output": [[colour]]} for one in value["aa"]["test"]]
        path = tmp_path / "tasks.json"
        path.write_text(json.dumps(value))
        pipeline = small(str(path))
        inputs = pipeline.inputs()
        reply = Output("k", "aa", "aa@edit-00", {}, 0, edit(), None, None)
        done: Mapping[str, list[Output]] = {"sample": [reply], "answer": []}
        stages = pipeline.stages()
        keys.append([item.key(one.identity, "m") for one in stages[:2] for item in items_of(one, inputs, dict(done))])
        examples = training_examples(inputs.tasks, pipeline.plan("aa", inputs.tasks["aa"], reply).tuning.examples)  # type: ignore[union-attr]
        keys[-1].append(encode([dataclasses.asdict(example) for example in examples]).decode())
    assert keys[0] == keys[1]


def test_an_answer_from_an_edit_is_trained_on_what_the_edit_says(data: str) -> None:
    pipeline = small(data)
    tasks = pipeline.inputs().tasks
    reply = Output("k", "aa", "aa@edit-00", {}, 0, edit(5e-4, 2, size=True), None, None)
    tuning = pipeline.plan("aa", tasks["aa"], reply).tuning
    assert tuning is not None
    assert (tuning.learning_rate, tuning.epochs, tuning.learned) == (5e-4, 2, "answer")
    assert tuning.examples["augmentations"] == ["basic", "size"]
    fixed = pipeline.fixed("aa", tasks["aa"]).tuning
    assert fixed is not None
    assert (fixed.learning_rate, fixed.epochs, fixed.rank, fixed.alpha) == (PAPER.learning_rate, 2, 128, 16.0)


@pytest.mark.parametrize(
    "setting",
    ["edits=0", "edits=1001", "edit_temperature=0", "edit_temperature=-1", "edit_top_p=0", "edit_tokens=0",
     "randoms=-2", "samples=2", "voting=none", "rank=0", "leave_n=3", "most=0"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(SealSelfEdit, [setting, "temperature=1"] if setting == "samples=2" else [setting])


def test_the_presets_can_be_built() -> None:
    assert build(SealSelfEdit, preset="paper").edits == 5
    seal = build(SealSelfEdit, preset="seal")
    assert (seal.padding, seal.texts, seal.translation, seal.voting) == ("seal",) * 4

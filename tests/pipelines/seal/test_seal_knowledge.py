"""Knowledge incorporation: what is written, learned, judged and rewarded, and what none of it ever sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError, Waits
from hybrid.execution.roles import roles_of
from hybrid.protocols import Inputs, Pipeline
from hybrid.records import Failure, Item, Output
from hybrid.settings import build
from hybrid.work import Derive, Tune
from pipelines.seal.knowledge.documents import Documents, training_examples
from pipelines.seal.knowledge.pipeline import SealKnowledge
from pipelines.seal.knowledge.rewards import best, rewards
from pipelines.seal.knowledge.verdicts import grade
from tests.support.stages_in_memory import items_of, run_stages

YES, NO = '{"reason": "r", "correct": true}', '{"reason": "r", "correct": false}'
FACT = "Passage {} says {}."


def entry(number: int, questions: int = 2) -> dict[str, Any]:
    asked = [{"question": f"What is {number}.{n}?", "answer": f"fact {number}.{n}"} for n in range(questions)]
    return {"title": f"T{number}", "context": f"Text {number}.", "questions": asked}


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Six passages with two questions each."""
    path = tmp_path / "passages.json"
    path.write_text(json.dumps([entry(number) for number in range(6)]))
    return str(path)


def small(data: str, **settings: Any) -> SealKnowledge:
    few = {"rounds": 1, "passages": 2, "eval_passages": 2, "shuffle": None, "groups": 2, "completions": 3}
    return SealKnowledge(data=data, **{**few, **settings})


class Learner:
    """A writer whose text n about a passage teaches n of its questions, a learner that knows what it was taught, and a
    judge that compares; a trained writer's texts teach all.
    """

    def __init__(self, inputs: Inputs, texts: Callable[[Item], str | Failure] | None = None) -> None:
        self.inputs, self.texts = inputs, texts or self.text
        self.asked: list[Item] = []
        self.judge: Callable[[Item], str | Failure] = self.verdict

    def __call__(self, item: Item) -> str | Failure:
        self.asked.append(item)
        if "row" in item.view:
            return self.judge(item)
        if item.question.startswith("policy-"):
            assert item.request.tuning is not None
            return encode({"adapter": named(item), "steps": 1, "tokens": 10, "loss": [1.0]}).decode()
        return self.answer(item) if "question" in item.view else self.texts(item)

    def text(self, item: Item) -> str:
        return "\n".join([f"about {n}" for n in range(2 if item.request.adapter else item.sample)] or ["nothing"])

    def answer(self, item: Item) -> str:
        wanted = self.inputs.references[item.question.partition("@")[0]][0]
        if "Passage:" in item.request.messages[-1].content:
            return f"It is {wanted}"
        tuning = item.request.tuning
        taught = json.dumps(tuning.examples) if tuning else ""
        return f"It is {wanted}" if f"about {wanted[-1]}" in taught else "no idea"

    def verdict(self, item: Item) -> str:
        said = item.request.messages[-1].content
        wanted = said.split("<correct_answer>\n")[1].split("\n")[0]
        return YES if wanted in said.split("<student_answer>")[1] else NO

    def of(self, what: str) -> list[Item]:
        found: Mapping[str, Callable[[Item], bool]] = {
            "judge": lambda item: "row" in item.view,
            "policy": lambda item: item.question.startswith("policy-"),
            "answer": lambda item: "question" in item.view and "row" not in item.view,
            "write": lambda item: not item.view and not item.question.startswith("policy-"),
        }
        return [item for item in self.asked if found[what](item)]


def named(policy: Item) -> str:
    assert policy.request.tuning is not None
    return hashlib.sha256(policy.request.tuning.digest.encode()).hexdigest()


def learned(pipeline: SealKnowledge, **how: Any) -> tuple[dict[str, list[Output]], Learner]:
    inputs = pipeline.inputs()
    learner = Learner(inputs, how.pop("texts", None))
    learner.judge = how.pop("judge", learner.judge)
    return run_stages(pipeline, inputs, learner), learner


def shares(outputs: list[Output]) -> dict[str, float | None]:
    """Split, arm and completion -> share of right answers; None where one has no grade."""
    found: dict[str, list[float | None]] = {}
    for one in outputs:
        named = [str(one.view[name]) for name in ("split", "arm", "completion") if name in one.view]
        found.setdefault(" ".join(named), []).append(grade(one).score)
    return {name: None if None in each else sum(one or 0 for one in each) / len(each) for name, each in found.items()}


def test_what_the_next_round_waits_for_comes_first_and_only_judges_and_rewards_see_answers(data: str) -> None:
    pipeline = small(data)
    assert isinstance(pipeline, Pipeline)
    stages = pipeline.stages()
    assert [stage.name for stage in stages] == [
        "write-0", "answer-0-0", "answer-0-1", "judged-0-0", "judged-0-1", "judged-again-0-0", "judged-again-0-1",
        "marked-0-0", "marked-0-1", "policy-1",
        "answer-controls", "judged-controls", "judged-again-controls", "marked-controls",
        "write-eval-0", "answer-eval-0", "judged-eval-0", "judged-again-eval-0", "marked-eval-0",
        "write-eval-1", "answer-eval-1", "judged-eval-1", "judged-again-eval-1", "marked-eval-1", "results",
    ]  # fmt: skip
    for stage in stages:
        assert stage.reads_references is stage.name.startswith(("judged-", "marked-", "policy-"))
        assert (stage.side == "laptop") is (stage.role == "judge") is stage.name.startswith("judged-")
        assert isinstance(stage.work, Derive) is stage.name.startswith(("marked-", "results"))
        assert isinstance(stage.work, Tune) is stage.name.startswith(("answer-", "policy-"))
    policy = next(stage for stage in stages if stage.name == "policy-1")
    assert not any("eval" in name or "controls" in name for name in policy.after)


def test_a_round_rewards_the_text_that_taught_most_and_the_next_writer_learns_it(data: str) -> None:
    pipeline = small(data)
    done, learner = learned(pipeline)
    (policy,) = learner.of("policy")
    assert policy.request.tuning is not None
    kept: Any = policy.request.tuning.examples["kept"]
    assert [text for _, text in kept] == ["about 0\nabout 1"] * 2
    assert policy.request.tuning.keep
    assert shares(done["results"]) == {
        "train base": 0.0, "train round-0 0": 0.0, "train round-0 1": 0.5, "train round-0 2": 1.0,
        "eval base": 0.0, "eval context": 1.0, "eval passage": 0.0, "eval round-0 0": 0.0, "eval round-1 0": 1.0,
    }  # fmt: skip
    adapters = {item.question: item.request.adapter for item in learner.of("write")}
    assert {bool(adapters[name]) for name in adapters if "@round-1" in name} == {True}
    assert {one.digest for one in adapters.values() if one} == {named(policy)}
    assert all(one.task in pipeline.inputs().tasks for one in done["results"])
    assert len({one.question for one in done["results"]}) == len(done["results"])


def test_a_row_is_judged_once_and_never_one_that_a_rule_settles(data: str) -> None:
    done, learner = learned(small(data))
    asked = [item.request.messages[-1].content for item in learner.of("judge")]
    assert len(asked) == len(set(asked))
    rows = {one.view["row"] for name in done if name.startswith("judged-") for one in done[name]}
    assert len(rows) == len(asked)
    answers = [one for name in done if name.startswith("answer-") for one in done[name]]
    different = {(one.view["question"], one.text) for one in answers}
    assert len(asked) == len(different) < len(answers)
    exact, learner = learned(small(data, rules=("contained",)))
    assert {one.text for one in exact["answer-0-0"]} == {"It is fact 2.0", "It is fact 2.1", "no idea"}
    assert not any("It is" in item.request.messages[-1].content for item in learner.of("judge"))


def test_the_same_passages_in_every_round_are_not_judged_anew(data: str) -> None:
    done, learner = learned(small(data, rounds=2, fresh=False))
    asked = [item.request.messages[-1].content for item in learner.of("judge")]
    assert len(asked) == len(set(asked))
    assert done["judged-1-0"] == []
    second = [one for one in done["results"] if one.view["split"] == "train" and one.view["round"] == 1]
    assert {grade(one).score for one in second if one.view["arm"] == "round-1"} == {1.0}
    assert len(learner.of("policy")) == 2


def test_the_questions_are_asked_without_the_passage_but_for_the_control(data: str) -> None:
    _, learner = learned(small(data))
    for item in learner.of("answer"):
        said = str(item.request.messages)
        assert ("Text " in said) is item.question.endswith("@context")
    assert {item.request.messages[-1].content.split("\n")[0][:6] for item in learner.of("answer")} == {"Topic:"}


@pytest.mark.parametrize(
    ("texts", "judge", "why"),
    [
        (lambda item: Failure("too-long", "the passage does not fit"), None, "not-written"),
        (lambda item: " \n\n", None, "no-text"),
        (None, lambda item: Failure("connection", "gone"), "the judge failed: connection"),
        (None, lambda item: "I cannot say", "unreadable verdict"),
    ],
)
def test_what_could_not_be_written_or_judged_is_named_and_never_a_zero_in_a_reward(
    data: str, texts: Any, judge: Any, why: str
) -> None:
    pipeline = small(data)
    done, learner = learned(pipeline, **({"texts": texts} if texts else {"judge": judge}))
    found = list(rewards(with_answers(done, pipeline, "marked-0-0")))
    assert len(found) == 3
    assert {one.value for one in found} == {None}
    assert {one.why for one in found} == {why}
    assert list(best(found, always=True)) == []
    assert learner.of("policy") == []
    scores = {grade(one).score for one in done["results"] if one.view["arm"].startswith("round-")}
    assert scores == {None}
    assert len(done["results"]) == 2 * 2 * 4 + 2 * 2 * 5, "every answer is counted"


def with_answers(done: dict[str, list[Output]], pipeline: SealKnowledge, name: str) -> list[Output]:
    kept = {one.question: one.reference for one in done["results"]}
    for one in done[name]:
        one.reference = kept[one.question]
    return done[name]


def test_texts_are_compared_by_the_questions_that_have_a_verdict_on_all_of_them(data: str) -> None:
    def judge(item: Item) -> str | Failure:  # the second question of the text that teaches most has no verdict
        return Failure("x", "x") if "It is fact 2.1" in item.request.messages[-1].content else learner_judge(item)

    pipeline = small(data)
    learner_judge = Learner(pipeline.inputs()).verdict
    done, _ = learned(pipeline, judge=judge)
    found = list(rewards(with_answers(done, pipeline, "marked-0-0")))
    assert [(one.value, one.base, one.questions) for one in found] == [(0.0, 0.0, 1), (1.0, 0.0, 1), (1.0, 0.0, 1)]
    assert [one.completion for one in best(found, always=False)] == [1]


def test_a_reward_is_the_mean_over_trainings_of_a_text_with_other_seeds(data: str) -> None:
    class Lucky(Learner):
        """Learns nothing by the trainings with the first seed."""

        def answer(self, item: Item) -> str:
            tuning = item.request.tuning
            return "no idea" if tuning and tuning.seed == 0 else super().answer(item)

    pipeline = small(data, trainings=2)
    learner = Lucky(pipeline.inputs())
    done = run_stages(pipeline, pipeline.inputs(), learner)
    found = list(rewards(with_answers(done, pipeline, "marked-0-0")))
    assert [(one.completion, one.value, one.questions) for one in found] == [(0, 0.0, 2), (1, 0.25, 2), (2, 0.5, 2)]
    assert [one.text for one in found] == ["nothing", "about 0", "about 0\nabout 1"]
    assert [one.completion for one in best(found, always=False)] == [2]
    trained = {item.request.tuning.digest: item.request.tuning for item in learner.of("answer") if item.request.tuning}
    assert len({(json.dumps(one.examples), one.seed) for one in trained.values()}) == 2 * 3 * 2 + 2 + 2 * 2
    ends = {one.question.partition("@")[2] for one in done["marked-0-0"]}
    assert ends == {"round-0-base", *(f"round-0-{n:02d}{again}" for n in range(3) for again in ("", ".2"))}
    asked = [item.request.messages[-1].content for item in learner.of("judge")]
    assert len(asked) == len(set(asked)), "equal answers after several trainings are judged once"


def test_a_question_without_a_verdict_after_one_of_the_trainings_counts_for_no_text(data: str) -> None:
    pipeline = small(data, trainings=2, groups=1)
    done, _ = learned(pipeline)
    outputs = with_answers(done, pipeline, "marked-0-0")
    lost = next(one for one in outputs if one.question.endswith("2.0@round-0-01.2") or "@round-0-01.2" in one.question)
    lost.text, lost.error = None, Failure("memory", "full")
    found = [one for one in rewards(outputs) if one.task == lost.task]
    assert {one.questions for one in found} == {1}


def test_texts_that_are_all_alike_are_learned_once_and_nothing_is_rewarded_that_does_not_help(data: str) -> None:
    pipeline = small(data, groups=1)
    done, learner = learned(pipeline, texts=lambda item: "the same")
    trained = {item.request.tuning.digest for item in learner.of("answer") if item.request.tuning}
    assert len(trained) == 2 + 2 + 2  # texts about training passages, about evaluation passages, raw passages
    assert learner.of("policy") == []
    published, learner = learned(small(data, groups=1, select="published"), texts=lambda item: "the same")
    assert len(learner.of("policy")) == 1
    assert len(published["results"]) == len(done["results"])


def test_a_policy_that_could_not_be_trained_stops_the_run(data: str) -> None:
    class Failing(Learner):
        def __call__(self, item: Item) -> str | Failure:
            return Failure("memory", "full") if item.question.startswith("policy-") else super().__call__(item)

    pipeline = small(data)
    with pytest.raises(Waits, match="policy-1 was not trained: memory: full"):
        run_stages(pipeline, pipeline.inputs(), Failing(pipeline.inputs()))


def test_the_writer_is_trained_on_the_request_as_it_was_asked(data: str) -> None:
    for form in ("chat", "plain"):
        pipeline = small(data, format=form)
        inputs = pipeline.inputs()
        (stage,) = (one for one in pipeline.stages() if one.name == "policy-1")
        (asked, *_) = items_of(pipeline.stages()[0], inputs, {})
        kept = [[asked.task, "what it wrote"]]
        about = {"kept": kept, "prompts": pipeline._prompts(inputs.tasks, kept)}
        assert isinstance(stage.work, Tune)
        (example,) = stage.work.examples(inputs.tasks, about)
        if form == "chat":
            assert example.messages[:-1] == asked.request.messages
            assert example.messages[-1].content == "what it wrote"
        else:
            assert (example.prompt, example.text) == (asked.request.prompt, "what it wrote")
        for wrong in ({}, {**about, "prompts": "x"}, {**about, "kept": [["q", "x"]]}):
            with pytest.raises(BadData):
                stage.work.examples(inputs.tasks, wrong)


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("implications", "Sure, here:\n1. A.\n\n2. B.\n---\n2. B.\n", ("1. A.", "2. B.")),
        ("implications", "A.\nB.", ("A.", "B.")),
        ("self-qa", " Who?\nX\nQuestion 2: Why?\nY", ("Question 1: Who?\nX", "Question 2: Why?\nY")),
        ("self-qa", "", ()),
        ("rewrite", "\n \n", ()),
    ],
)  # fmt: skip
def test_a_text_is_divided_into_its_different_documents(kind: str, text: str, wanted: tuple[str, ...]) -> None:
    assert Documents(kind).of(text) == wanted
    assert Documents(kind, most=1).of(text) == wanted[:1]


def test_an_adapter_learns_the_documents_and_the_passage_below_the_title(data: str) -> None:
    tasks = small(data).inputs().tasks
    (first, second, *_) = sorted(tasks)
    about = Documents().examples(tasks, [(first, ["A.\nB.", "A."]), (second, [])])
    title, context = tasks[first]["title"], tasks[first]["context"]
    wanted = [f"{title}\nA.", f"{title}\nB.", f"{title}\n{context}"]
    wanted.append(f"{tasks[second]['title']}\n{tasks[second]['context']}")
    assert [one.text for one in training_examples(tasks, about)] == wanted
    changed = {**tasks, first: {**tasks[first], "context": "other"}}
    for wrong in ((changed, about), ({}, about), (tasks, {}), (tasks, {**about, "kind": 7, "x": 1})):
        with pytest.raises(BadData):
            training_examples(*wrong)


def test_several_passages_are_learned_together_in_one_adapter(data: str) -> None:
    for together, adapters in ((0, 3), (2, 3), (1, 2 + 2 * 3)):  # passages alone, and what two writers wrote
        pipeline = small(data, together=together, eval_completions=2)
        _, learner = learned(pipeline)
        of_eval = {item.question.partition("@")[2] for item in learner.of("answer")
                   if pipeline.inputs().tasks[item.task]["split"] == "eval" and item.request.tuning}  # fmt: skip
        assert len(of_eval) == adapters, "equal texts are learned once"


def test_the_texts_of_another_writer_are_an_arm(data: str, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps([{**entry(0), "completions": ["about 0\nabout 1", "nothing"]}]))
    pipeline = small(data, given=str(given))
    assert pipeline.inputs().about["given"] == {"passages": 1, "of the evaluation": 1, "without": 1}
    done, _ = learned(pipeline)
    assert shares(done["results"])["eval given 0"] == 1.0
    given.write_text(json.dumps([{**entry(0), "completions": "no list"}]))
    with pytest.raises(BadData, match="'completions' is not a list"):
        pipeline.inputs()


def test_without_a_judge_the_rules_say_no_too_and_nobody_else_is_asked(data: str) -> None:
    pipeline = small(data, judged_by="rules", rules=("contained",))
    assert set(roles_of(pipeline)) == set()
    assert not any(stage.role or stage.side == "laptop" for stage in pipeline.stages())
    done, learner = learned(pipeline)
    assert learner.of("judge") == []
    assert shares(done["results"])["train round-0 2"] == 1.0
    assert len(learner.of("policy")) == 1
    assert {grade(one).detail["by"] for one in done["results"]} == {"rule contained", "no rule"}


def test_the_answers_of_evaluation_passages_change_nothing_that_is_trained(tmp_path: Path) -> None:
    keys = []
    for answer in ("a", "b"):
        path = tmp_path / "passages.json"
        held = [{**entry(n), "questions": [{"question": f"{n}?", "answer": f"{answer} {n}"}]} for n in range(2)]
        path.write_text(json.dumps([*held, *(entry(n) for n in range(2, 6))]))
        _, learner = learned(small(str(path)))
        keys.append([item.key("s", "m") for item in learner.of("policy") + learner.of("write")])
    assert keys[0] == keys[1]


def test_splits_are_disjoint_and_too_few_passages_are_refused(data: str, tmp_path: Path) -> None:
    tasks = small(data, passages=2, rounds=2).inputs().tasks
    assert sorted((one["split"], one.get("round", -1)) for one in tasks.values()) == [
        ("eval", -1), ("eval", -1), ("train", 0), ("train", 0), ("train", 1), ("train", 1),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="data has 6 passages with questions, 8 are needed: rounds=2 of passages=3"):
        small(data, passages=3, rounds=2).inputs()
    with pytest.raises(UsageError, match="is both for training and for the evaluation"):
        small(data, eval_data=data).inputs()
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps(
            [entry(9), {**entry(8), "questions": []}, {**entry(7), "questions": [{"question": "?", "answer": ""}]}]
        )
    )
    about = small(data, eval_data=str(other), eval_passages=1, rounds=3).inputs().about
    assert about["evaluation"]["whole file"] == {
        "passages": 1, "questions": 2, "without an answer, left out": 1, "passages without a question, left out": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    ["rounds=-1", "passages=0", "groups=0", "completions=0", "trainings=0", "top_p=0", "temperature=0", "prompt=hello",
     "kind=essay", "rules=sum", "controls=none", "rank=0", "policy_rank=0", "date=", "most_documents=-1", "together=-1",
     "select=all"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        build(SealKnowledge, [setting])


def test_an_own_prompt_holds_the_passage_and_what_a_passage_holds_is_no_placeholder(tmp_path: Path) -> None:
    path = tmp_path / "passages.json"
    path.write_text(json.dumps([{**entry(n), "context": f"{{title}} {{passage}} {n}"} for n in range(4)]))
    pipeline = small(str(path), prompt="On {title}: {passage} ({title})", format="plain")
    (item, *_) = items_of(pipeline.stages()[0], pipeline.inputs(), {})
    assert item.request.prompt == "On T2: {title} {passage} 2 (T2)"


def test_a_plan_foresees_at_least_what_a_run_comes_to(data: str) -> None:
    pipeline = small(data)
    tasks = pipeline.inputs().tasks
    done, _ = learned(pipeline)
    for stage in pipeline.stages():
        if isinstance(stage.work, Derive) or not stage.after or "again" in stage.name:
            continue
        foreseen = list(pipeline.foresee(stage.name, tasks) or ())
        assert len(foreseen) >= max(1, len(done[stage.name])), stage.name
        trained = {item.request.tuning.digest for item, _ in foreseen if item.request.tuning}
        assert bool(trained) is stage.name.startswith(("answer-", "policy-"))
        if isinstance(stage.work, Tune):
            for item, _ in foreseen:
                if item.request.tuning:
                    assert stage.work.examples(tasks, item.request.tuning.examples)


def test_the_presets_can_be_built() -> None:
    assert build(SealKnowledge, preset="paper").select == "published"
    assert build(SealKnowledge, preset="small").passages == 4
    assert len(build(SealKnowledge, preset="demo").inputs().tasks) == 4

"""The search of `branch`: the same tree in any order of answers, policies, the door, budgets, strategies, control."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hybrid.backends.registry import open_embedder
from hybrid.errors import BadData
from hybrid.records import Failure, Item, Output
from hybrid.sampling import item_seed
from hybrid.settings import build, freeze, restore
from hybrid.work import Finished, replayed
from pipelines.branch.nodes import Node
from pipelines.branch.pipeline import Branch
from pipelines.branch.reading import kept_of, trees
from pipelines.branch.scenario import from_task
from pipelines.branch.selecting import by_letters
from pipelines.branch.unrelated import UNRELATED
from pipelines.branch.walk import Found
from tests.support.walks_in_memory import Answer, Driven, driven, output_of

WORDS = "river stone lamp keeper storm gull letter rope stair salt window child boat glass night wind bell"
FAST: dict[str, Any] = {"scenario": ("demo",), "candidates": 3, "keep": 2, "levels": 3}


def story(item: Item) -> str:
    """Another text for each seed, always about the lighthouse."""
    if item.role == "judge":
        return json.dumps({"better": "A"})
    drawn = random.Random(item_seed(item.request.sampling.seed, item.request.messages[-1].content))

    def text() -> str:
        return f"The lighthouse keeps working, {' '.join(drawn.choices(WORDS.split(), k=12))}, and nobody lives there."

    if item.request.schema:
        return json.dumps({"answers": [{"text": text(), "probability": 0.2} for _ in range(4)]})
    return text()


def searched(answer: Answer = story, order: int | None = None, **settings: Any) -> Driven:
    pipeline = Branch(**{**FAST, **settings})
    walk = pipeline._walk("demo", pipeline.inputs().tasks)
    return driven(walk, answer, None if order is None else random.Random(order))


def nodes(done: Driven) -> list[Node]:
    assert isinstance(done.value, Found)
    return list(done.value.tree)


def records(done: Driven, **settings: Any) -> list[tuple[Any, ...]]:
    pipeline = Branch(**{**FAST, **settings})
    outputs = sorted(done.outputs, key=lambda one: (one.task, one.question, one.sample))
    made = pipeline._tree(pipeline.inputs().tasks, {"search": outputs})
    return [(one.question, one.text, one.view, one.failure) for one in made]


def verdicts(done: Driven) -> Counter[str]:
    return Counter(node.verdict for node in nodes(done))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"policy": "best-first", "strategy": ("listed",)},
        {"policy": "ucb", "strategy": ("iid", "facets"), "select": "mmr"},
        {"policy": "map-elites", "strategy": ("string-seed",), "select": "cosine"},
        {"strategy": ("verbalized",), "judge": 2},
    ],
    ids=str,
)
def test_the_tree_is_the_same_whatever_is_answered_first(settings: dict[str, Any]) -> None:
    plain = records(searched(**settings), **settings)
    assert [records(searched(order=order, **settings), **settings) for order in range(2)] == [plain] * 2
    ids = [one[0] for one in plain]
    assert len(set(ids)) == len(ids)
    assert all(view["parent"] in {*ids, "demo", "demo/control"} for _, _, view, _ in plain if view["depth"])


@pytest.mark.parametrize("policy", ["beam", "best-first", "ucb", "map-elites"])
def test_every_policy_comes_to_the_last_level_and_decides_of_every_node(policy: str) -> None:
    done = searched(policy=policy, candidates=4)
    assert {node.depth for node in nodes(done) if node.verdict == "kept"} == {3}
    assert verdicts(done)["kept"] == 2
    assert "" not in verdicts(done)
    assert sum(node.accepted for node in nodes(done)) <= 4 + 2 * 2 * 4
    for node in nodes(done):
        if node.verdict == "dropped-similar":
            assert done.value.tree.nodes[node.sibling].depth == node.depth
            assert node.similarity is not None


def test_each_distinct_text_is_embedded_once_and_nothing_is_asked_twice() -> None:
    done = searched(strategy=("iid", "verbalized"))
    texts = [one.question for one in done.outputs if one.vector is not None]
    assert len(texts) == len(set(texts)) > 20
    assert len({one.key for one in done.outputs}) == len(done.outputs)


def test_the_scenarios_of_a_run_share_the_embeddings_of_what_they_have_in_common() -> None:
    pipeline = Branch(**{**FAST, "scenario": ("mars", "romcom"), "levels": 1, "control": False})
    inputs = pipeline.inputs()
    both = [driven(pipeline._walk(task, inputs.tasks), story).outputs for task in sorted(inputs.tasks)]
    keys = [{one.key for one in some if one.vector} for some in both]
    assert len(keys[0] & keys[1]) == 12, "the texts that similarity is calibrated with"
    every = {one.key: one for some in both for one in some}.values()
    made = list(pipeline._tree(inputs.tasks, {"search": list(every)}))
    assert {one.task for one in made} == {"mars", "romcom"}


def test_candidates_of_a_level_and_the_samples_of_the_control_are_asked_for_at_the_same_time() -> None:
    assert searched(candidates=6).most_waiting >= 12


def test_a_model_that_always_says_the_same_ends_with_one_text_and_the_reason() -> None:
    done = searched(lambda item: "The lighthouse keeps working although nobody lives in it any more.")
    assert verdicts(done)["kept"] == 1
    assert verdicts(done) == {"kept": 1, "rejected-duplicate": 4, "rejected-boilerplate": 9}
    assert {node.reason for node in nodes(done) if node.depth == 2} == {"it only repeats what it was asked"}
    assert {node.sibling for node in nodes(done) if node.depth == 1 and node.sibling} == {"demo/0"}
    *_, (id, text, view, failure) = records(done)
    assert (id, text, view["verdict"]) == ("demo/short", "", "failed")
    assert failure is not None
    assert failure.kind == "short"
    assert "1 of 2 texts kept at the level 'premise' (1 of 3 levels reached)" in failure.message
    assert "rejected-duplicate" in failure.message


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("Sure! The lighthouse keeps working although nobody lives in it.", "rejected-boilerplate", "Sure!"),
        ("The lighthouse: let me know if you like this story about it.", "rejected-boilerplate", "let me know if"),
        (
            "A lighthouse that keeps working although nobody lives in it any more.",
            "rejected-boilerplate",
            "only repeats what",
        ),
        ("The lighthouse works.", "rejected-constraint", "3 words, fewer than 8"),
        ("- The lighthouse keeps working\n- nobody lives in it any more", "rejected-constraint", "it is a list"),
        ("The lighthouse " * 40, "rejected-constraint", "80 words, more than 60"),
        ("The lighthouse keeps working,\n\nalthough nobody lives in it.", "rejected-constraint", "2 paragraphs"),
        ("Zx qv jj kk ww zz qq vv xx yy zzz qqq vvv.", "rejected-off-topic", "not about the brief"),
        ("", "failed", "empty answer"),
        (Failure("engine", "it stopped"), "failed", "it stopped"),
    ],
)
def test_what_is_refused_at_the_door_is_counted_with_its_reason_and_replaced(
    text: str | Failure, verdict: str, reason: str
) -> None:
    def answer(item: Item) -> str | Failure:
        return text if item.sample == 1 and "control" not in item.question else story(item)

    done = searched(answer, levels=1, relevant=0.0)
    assert verdicts(done)[verdict] == 1
    (refused,) = [node for node in nodes(done) if node.verdict == verdict]
    assert reason in refused.reason
    assert refused.id == "demo/1"
    assert len([node for node in nodes(done) if node.accepted]) == 3, "another one takes its place"
    assert len(nodes(done)) == 4


def test_an_embedder_that_knows_letters_alone_is_not_asked_what_is_off_topic() -> None:
    def answer(item: Item) -> str | Failure:
        return "Zx qv jj kk ww zz qq vv xx yy zzz qqq vvv." if item.sample == 1 else story(item)

    assert verdicts(searched(answer, levels=1))["rejected-off-topic"] == 0
    assert by_letters(UNRELATED[0], next(iter(open_embedder("hashed", "", {}).embed(UNRELATED))))
    assert not by_letters(UNRELATED[0], [1.0, *[0.0] * 383])


def test_a_mean_logprob_and_the_real_counts_of_tokens_are_those_of_the_records() -> None:
    done = searched(levels=1)
    for node in nodes(done):
        assert node.features["logprob"] == -1.5
        assert (node.tokens, node.seconds) == (len((node.text or "").split()), 0.25)


@pytest.mark.parametrize("policy", ["beam", "best-first", "ucb", "map-elites"])
@pytest.mark.parametrize("strategy", ["iid", "verbalized"])
def test_a_hard_budget_is_never_exceeded_and_a_soft_one_by_what_is_in_flight(policy: str, strategy: str) -> None:
    base = {"policy": policy, "strategy": (strategy,), "control": False, "candidates": 4}
    assert 5 <= len(nodes(searched(nodes=9, **base))) <= 9
    tokens = 4 * 94 if strategy == "verbalized" else 300
    used = sum(node.tokens for node in nodes(searched(tokens=tokens, **base)))
    assert 0 < used <= tokens
    soft = searched(nodes=9, budget="soft", **base)
    assert 9 <= len(nodes(soft)) <= 9 + 8
    late = searched(ms=2000, **base)
    assert len(nodes(late)) >= 8
    assert verdicts(late)["kept"] <= 2


def test_milliseconds_are_those_of_the_records_and_what_came_too_late_is_set_aside() -> None:
    def slow(item: Item) -> str | Failure | Output:
        return replace(output_of(item, story), seconds=1.0)

    done = searched(slow, candidates=4, levels=1, ms=2500, control=False)
    assert [node.verdict == "over-budget" for node in nodes(done)] == [False, False, False, True]
    soft = searched(slow, candidates=4, levels=1, ms=2500, control=False, budget="soft")
    assert not verdicts(soft)["over-budget"]


def test_a_call_that_gives_no_json_is_as_many_failures_as_texts_were_wanted() -> None:
    done = searched(lambda item: "no JSON" if item.request.schema else story(item), strategy=("verbalized",), levels=1)
    assert verdicts(done) == {"failed": 12}
    assert "does not keep to JSON" in nodes(done)[0].reason


def test_strategies_take_turns_and_each_asks_in_its_own_way() -> None:
    asked: list[Item] = []

    def answer(item: Item) -> str:
        asked.append(item)
        return story(item)

    every = ("iid", "verbalized", "listed", "facets", "string-seed")
    done = searched(answer, strategy=every, candidates=10, levels=1, control=False)
    assert Counter(node.strategy for node in nodes(done)) == {**dict.fromkeys(every, 2), "verbalized": 4}
    said = {item.question.rpartition("/")[2]: item.request.messages[-1].content for item in asked}
    assert "Tone: " in said["facets"]
    assert "Random string: " in said["string-seed"]
    assert "different answers" in said["verbalized"]
    assert "have been written already" in said["listed"], "the second one sees the gist of the first"
    seeds = [item.request.sampling.seed for item in asked]
    assert len(set(seeds)) == len(seeds)


def test_all_cells_of_the_grid_come_before_one_comes_again() -> None:
    cells: list[str] = []

    def answer(item: Item) -> str:
        cells.append(item.request.messages[-1].content)
        return story(item)

    searched(answer, strategy=("facets",), candidates=36, levels=1, control=False, retries=0.0)
    assert len(set(cells)) == len(cells) == 36


def test_the_control_has_as_many_plain_samples_and_chance_keeps_as_many() -> None:
    done = searched(strategy=("facets",))
    control = list(done.value.control)
    by_level = Counter(node.depth for node in nodes(done))
    assert Counter(node.depth for node in control) == by_level
    assert {node.strategy for node in control} == {"iid"}
    assert all(node.control and node.vector and "relevance" in node.features for node in control)
    assert sum(node.verdict == "kept" for node in control) == 2
    assert done.value.control.nodes.keys().isdisjoint(done.value.tree.nodes)
    assert searched(control=False).value.control is None


def test_a_judge_is_asked_in_both_orders_within_its_budget() -> None:
    asked: list[Item] = []

    def answer(item: Item) -> str:
        if item.role == "judge":
            asked.append(item)
        return story(item)

    done = searched(answer, judge=3, levels=2)
    pairs = Counter(frozenset(item.question.removeprefix("judge/").split("|")) for item in asked)
    assert set(pairs.values()) == {2}
    assert len(pairs) <= 3 * 2 + 3
    assert any("judge" in node.features for node in nodes(done))
    kept = [node for node in nodes(done) if node.verdict == "kept"]
    assert [node.preference for node in kept] == [0.5, 0.5], "a judge that always says A prefers none"
    every = [*nodes(done), *done.value.control]
    assert sum(node.first_won for node in every) == sum(node.shown_first for node in every) == len(asked)


def test_an_embedding_of_another_length_is_a_clear_error() -> None:
    def known(item: Item) -> Output:
        output = output_of(item, story)
        short = item.request.prompt.startswith("The lighthouse keeps") and output.vector is not None
        return replace(output, vector=output.vector[:100]) if short and output.vector else output

    pipeline = Branch(**FAST)
    with pytest.raises(BadData, match="100 dimensions beside those of 384"):
        replayed(pipeline._walk("demo", pipeline.inputs().tasks), known)


def test_texts_that_cannot_be_embedded_fail_and_without_any_vector_the_one_record_says_why() -> None:
    def known(item: Item, *, prompts: bool) -> Output:
        output = output_of(item, story)
        lost = output.vector is not None and (prompts or item.request.prompt.startswith("The lighthouse keeps"))
        failure = Failure("too-long", "a text has 900 tokens, the model reads 256")
        return replace(output, text=None, error=failure, vector=None) if lost else output

    pipeline = Branch(**FAST, control=False)
    tasks = pipeline.inputs().tasks
    end = replayed(pipeline._walk("demo", tasks), partial(known, prompts=False))
    assert isinstance(end, Finished)
    assert {node.verdict for node in end.value.tree} == {"failed"}
    assert "reads 256" in next(iter(end.value.tree)).reason
    end = replayed(pipeline._walk("demo", tasks), partial(known, prompts=True))
    assert isinstance(end, Finished)
    assert (len(end.value.tree), "cannot be calibrated: a text has 900" in end.value.failure.message) == (0, True)


def test_the_records_are_read_as_a_tree_and_the_kept_page_tells_the_stories() -> None:
    pipeline = Branch(**FAST)
    inputs = pipeline.inputs()
    done = searched()
    made = list(pipeline._tree(inputs.tasks, {"search": done.outputs}))
    outputs = [
        Output("0" * 64, one.task, one.question, one.view, 0, None if one.failure else one.text, one.failure, None)
        for one in made
    ]
    ((task, some),) = trees(outputs)
    assert task == "demo"
    assert len(kept_of(some)) == 2
    assert all(len(one.vector) == 384 for one in some if one.text and one.accepted)
    page = pipeline.pages(inputs.tasks, outputs, ["minilm"])["kept.md"]
    assert "A lighthouse without a keeper" in page


@pytest.mark.parametrize("preset", ["demo", "memory", "mars", "romcom", "styles", "all"])
def test_the_presets_are_pipelines(preset: str) -> None:
    pipeline = build(Branch, preset=preset)
    tasks = pipeline.inputs().tasks
    assert all(from_task(tasks[name], name).levels for name in tasks)
    assert restore(Branch, freeze(pipeline)) == pipeline

"""Walks: what they ask does not depend on the order of the answers, and replaying one brings it to where it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hybrid.errors import BadData, PluginFault
from hybrid.plugins.faults import stages_of
from hybrid.protocols import Inputs, Stage
from hybrid.records import Completion, Item, Output, Record, Request, Sampling
from hybrid.vectors import base64_of, rounded, vector_in
from hybrid.walks import MOST_QUIET_STEPS, Replay
from hybrid.work import EndlessWalk, Finished, Frontier, Search, Together, Walk, found_in, replayed

Tasks = Mapping[str, Any]


def item(question: str, task: str = "a", **more: Any) -> Item:
    return Item(task, question, Request(Sampling(8), prompt=question), **more)


def said(one: Item, text: str | None = None) -> Output:
    answer = f"said {one.request.prompt}" if text is None else text
    return Output(key_of(one).hex(), one.task, one.question, one.view, one.sample, answer, None, None)


def key_of(one: Item) -> bytes:
    return one.digest("s/1", one.role)


def tree(task: str, tasks: Tasks) -> Walk:
    """Two children a node, three levels; a node goes on with its longest answer. Returns how many nodes there were."""

    def node(name: str, depth: int) -> Walk:
        outputs = yield [item(f"{name}/{n}", task) for n in range(3)]
        best = max(outputs, key=lambda one: (len(one.text or ""), one.question))
        if depth == 3:
            return [best.question]
        (checked,) = yield [item(f"check {best.text}", task)]
        below = yield Together([node(f"{checked.text}>{name}{n}", depth + 1) for n in range(2)])
        return [best.question, *(one for found in below for one in found)]

    found = yield from node("n", 1)
    return found


def whole(answer: Callable[[Item], Output], *tasks: str) -> tuple[Replay, dict[bytes, Output]]:
    known: dict[bytes, Output] = {}
    replay = Replay(key_of, known.get)
    for task in tasks:
        replay.start(task, tree(task, {}))
    while replay.frontier:
        for key in list(replay.frontier):
            known[key] = answer(replay.items[key])
            replay.tell(key)
    return replay, known


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_does_the_same_in_whatever_order_its_items_are_answered(seed: int) -> None:
    expected, outputs = whole(said, "a", "b")
    chance, known = random.Random(seed), dict[bytes, Output]()
    replay = Replay(key_of, known.get)
    for task in ("b", "a"):
        replay.start(task, tree(task, {}))
    waits: dict[bytes, Item] = {}
    while replay.frontier:
        assert replay.frontier <= replay.items.keys()
        key = chance.choice(list(replay.frontier))
        waits[key] = replay.items[key]
        known[key] = outputs[key]
        replay.tell(key)
        if chance.random() < 0.1:  # the process was killed: another one goes on
            replay = Replay(key_of, known.get)
            for task in chance.sample(["a", "b"], 2):
                replay.start(task, tree(task, {}))
    assert (replay.values, replay.items) == (expected.values, expected.items)
    assert (replay.asked_by, replay.asked_at) == (expected.asked_by, expected.asked_at)
    assert waits.keys() == outputs.keys(), "each item once"
    assert len(outputs) == 2 * (7 * 3 + 3)


def test_a_walk_is_replayed_up_to_what_it_lacks() -> None:
    _, outputs = whole(said, "a")
    by_question = {one.question: one for one in outputs.values()}
    found = found_in(outputs.values())
    assert replayed(tree("a", {}), found) == Finished(whole(said, "a")[0].values["a"])
    assert replayed(tree("a", {}), lambda one: None) == Frontier(tuple(item(f"n/{n}") for n in range(3)))
    del by_question["n/1"]
    assert replayed(tree("a", {}), found_in(by_question.values())) == Frontier((item("n/1"),))
    twice = [said(item("q")), replace(said(item("q")), key="f" * 64)]
    with pytest.raises(ValueError, match="two items of one search"):
        found_in(twice)


def test_what_is_asked_twice_is_answered_once() -> None:
    def walk(task: str) -> Walk:
        first, again = yield [item("same"), item("same")]
        (later,) = yield [item("same")]
        (other,) = yield [item("same", sample=1)]
        return first is again is later and other is not first

    known: dict[bytes, Output] = {}
    replay, asked = Replay(key_of, known.get), []
    for task in ("a", "b"):
        replay.start(task, walk(task))
    while replay.frontier:
        asked += list(replay.frontier)
        for key in list(replay.frontier):
            known[key] = said(replay.items[key])
            replay.tell(key)
    assert (len(asked), replay.values) == (2, {"a": True, "b": True})


def test_empty_batches_and_walks_that_ask_nothing() -> None:
    def nothing() -> Walk:
        return "nothing"
        yield []

    def walk() -> Walk:
        return [(yield []), (yield Together([])), (yield Together([nothing(), nothing()]))]

    assert replayed(walk(), said) == Finished([[], [], ["nothing", "nothing"]])


@dataclass(frozen=True)
class One:
    """A pipeline of one search."""

    walk: Callable[[str, Tasks], Walk]

    def inputs(self) -> Inputs:
        return Inputs({"a": {}}, {"a/0": ""}, {})

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("search", "any", 1, Search(self.walk, ("embed",))),)


def empty_for_ever(task: str, tasks: Tasks) -> Walk:
    while True:
        yield []


def same_for_ever(task: str, tasks: Tasks) -> Walk:
    while True:
        yield [item("same")]


def stubborn(task: str, tasks: Tasks) -> Walk:
    while True:
        with suppress(RuntimeError):
            yield []


def broken(task: str, tasks: Tasks) -> Walk:
    outputs = yield Together([same_once(), same_once()])
    raise KeyError(outputs[0])


def same_once() -> Walk:
    (one,) = yield [item("same")]
    return one.text


def listed(task: str, tasks: Tasks) -> Any:
    return [item("a")]


def of_texts(task: str, tasks: Tasks) -> Any:
    yield ["a text"]


def of_a_stranger(task: str, tasks: Tasks) -> Any:
    yield [item("a", role="judge")]


@pytest.mark.parametrize(
    ("walk", "why"),
    [
        (empty_for_ever, f"EndlessWalk: {MOST_QUIET_STEPS:,} steps, one after another, asked nothing new"),
        (same_for_ever, "EndlessWalk"),
        (stubborn, "EndlessWalk"),
        (broken, "KeyError: 'said same'"),
        (listed, "list where hybrid wants Generator"),
        (of_texts, r"TypeError: a walk yields a list of Items, or Together, not \['a text'\]"),
        (of_a_stranger, "an item asks the role 'judge', which is none of the stage's roles"),
    ],
)
def test_a_walk_that_fails_is_told_as_a_fault_of_its_plugin(walk: Any, why: str) -> None:
    (stage,) = stages_of(One(walk))
    assert isinstance(stage.work, Search)
    with pytest.raises(PluginFault, match=why) as caught:
        replayed(stage.work.walk("a", {"a": {}}), said)
    assert "failed while walking the task 'a' in the stage 'search'" in caught.value.message
    assert "test_walks.py:" in caught.value.message or walk is listed


def test_an_endless_walk_is_told_without_a_plugin_too() -> None:
    with pytest.raises(EndlessWalk):
        replayed(empty_for_ever("a", {}), said)


def test_the_items_of_a_search_without_records_are_its_first_ones() -> None:
    (stage,) = stages_of(One(tree))
    assert list(stage.items({"a": {}, "b": {}})) == [item(f"n/{n}", task) for task in "ab" for n in range(3)]
    assert stage.roles == ("", "embed")


def test_further_fields_change_no_key_of_items_that_do_not_use_them() -> None:
    plain = Item("t", "t/0", Request(Sampling(8), prompt="hello"))
    assert plain.key("s/1", "m") == "06737647f3e4b81928d8e16f3da9ca93b3b954daf60c5038431a2d52cfa0f194"
    asked = replace(plain, request=replace(plain.request, embed=True))
    assert asked.key("s/1", "m") != plain.key("s/1", "m")
    assert replace(plain, role="embed").key("s/1", "m") == plain.key("s/1", "m"), "the model's digest says it"


def test_a_record_keeps_a_vector_to_the_bit() -> None:
    vector = rounded([0.1, -1 / 3, 1e-30, 0.0])
    record = Record("f" * 64, "t", "t/0", {}, 0, Completion("f" * 64, text="", vector=vector), "0" * 16)
    value = record.to_json()
    output = Output.from_json(value, what="here")
    assert (output.vector, output.text) == (vector, "")
    assert Output.from_json(output.to_json(), what="there") == output
    assert vector_in(base64_of(vector)) == vector


@pytest.mark.parametrize(
    "text", ["", "abc", "AAAA", "AAAAA", "\ud800", "AADAfw==", "AACAfwAAgP8=", 7, None, "A" * 600_000]
)
def test_what_is_no_vector_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"vector|fsum|codec"):
        vector_in(text)


def test_an_output_with_a_bad_vector_is_no_output_and_numbers_of_others_are_ignored() -> None:
    value = said(item("q")).to_json()
    with pytest.raises(BadData, match="vector"):
        Output.from_json({**value, "vector": "AADAfw=="}, what="here")
    read = Output.from_json({**value, "seconds": "x", "logprob": True, "vector": [1.0]}, what="here")
    assert (read.vector, read.logprob, read.seconds) == (None, None, 0.0)
    assert Output.from_json({**value, "seconds": 2, "logprob": -0.5}, what="here").logprob == -0.5

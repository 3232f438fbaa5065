"""Rollouts as they are published, and what is refused of those that arrive."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hybrid.canonical import encode
from pipelines.sapo.arrivals import Expected, unpack
from pipelines.sapo.rollouts import Answer, Batch, Rollout, pack, packed
from pipelines.sapo.streams import question

TASKS = ("bf", "arc_1d")
CONFIGURATION = "c" * 64


def expected(**other: Any) -> Expected:
    made = {"group": 2, "nodes": 3, "slots": 4, "rounds": 100, "tasks": TASKS, "longest": 5000, **other}
    return Expected(CONFIGURATION, **made)


def asked(node: int, round: int, slot: int) -> tuple[str, int]:
    return question(TASKS, 7, node, round, slot)


def rollout(node: int = 1, round: int = 5, slot: int = 0, texts: tuple[str, ...] = ("a", "b")) -> Rollout:
    task, index = asked(node, round, slot)
    answers = tuple(Answer(text, True, (*text.encode(), 0), (-0.5,) * (len(text.encode()) + 1)) for text in texts)
    return Rollout(CONFIGURATION, node, round, slot, task, index, answers, "t" * 64)


def batch(*rollouts: Rollout, node: int = 1, round: int = 5) -> Batch:
    return Batch(CONFIGURATION, node, round, round, "t" * 64, rollouts)


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A segment of one rollout of node 1 in round 5, with something changed in it."""
    value = json.loads(zstandard.ZstdDecompressor().decompress(pack([batch(rollout())])))
    change(value)
    return zstandard.ZstdCompressor().compress(json.dumps(value).encode())


def kinds(data: bytes, **other: Any) -> list[str]:
    return [one.kind for one in unpack(data, expected(question=asked, **other), node=1).refused]


@given(texts=st.lists(st.text(max_size=40), min_size=2, max_size=2), slots=st.integers(0, 4))
def test_what_was_packed_comes_back_with_the_same_ids(texts: list[str], slots: int) -> None:
    sent = [batch(*(rollout(slot=slot, texts=tuple(texts)) for slot in range(slots)))]
    found, refused = unpack(pack(sent), expected(question=asked), node=1)
    assert found == sent
    assert not refused


def test_a_segment_may_hold_several_rounds_and_nodes() -> None:
    sent = [batch(rollout(node, round), node=node, round=round) for round in range(3) for node in range(3)]
    assert unpack(pack(sent), expected(question=asked)).batches == sent


@given(most=st.integers(1, 3000), slots=st.lists(st.integers(0, 4), max_size=5))
def test_what_is_too_much_for_a_segment_is_published_in_several(most: int, slots: list[int]) -> None:
    sent = [
        batch(*(rollout(1, number, slot) for slot in range(count)), round=number) for number, count in enumerate(slots)
    ]
    parts = [unpack(data, expected(question=asked)).batches for data in packed(sent, most)]
    found = [one for part in parts for batch in part for one in batch.rollouts]
    assert found == [one for batch in sent for one in batch.rollouts]
    sizes = [sum(len(encode(one.to_json())) for batch in part for one in batch.rollouts) for part in parts]
    assert all(
        size <= most or sum(len(one.rollouts) for one in part) == 1 for size, part in zip(sizes, parts, strict=True)
    )


def rollout_of(value: dict[str, Any]) -> dict[str, Any]:
    return value["batches"][0]["rollouts"][0]


def answer_of(value: dict[str, Any]) -> dict[str, Any]:
    return rollout_of(value)["answers"][0]


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "a format of others": ("schema", lambda value: value.update(format="x")),
    "a later version": ("version", lambda value: value.update(version=2)),
    "a version that is true": ("version", lambda value: value.update(version=True)),
    "another run or setting": ("another-configuration", lambda value: value.update(configuration="d" * 64)),
    "batches that are none": ("schema", lambda value: value.update(batches={"a": 1})),
    "a batch that is none": ("schema", lambda value: value.update(batches=[7])),
    "a node of another's segment": ("node-mismatch", lambda value: value["batches"][0].update(node=2)),
    "a node that there is not": ("unknown-node", lambda value: value["batches"][0].update(node=64)),
    "a node that is a text": ("unknown-node", lambda value: value["batches"][0].update(node="1")),
    "a round after the last": ("unknown-round", lambda value: value["batches"][0].update(round=100)),
    "a round before the first": ("unknown-round", lambda value: value["batches"][0].update(round=-1)),
    "a tokenizer that is none": ("schema", lambda value: value["batches"][0].update(tokenizer=[1])),
    "ids without a tokenizer": ("schema", lambda value: value["batches"][0].update(tokenizer="")),
    "more rollouts than questions": (
        "too-many",
        lambda value: value["batches"][0].update(rollouts=value["batches"][0]["rollouts"] * 5),
    ),
    "a slot twice": (
        "slot-twice",
        lambda value: value["batches"][0].update(rollouts=value["batches"][0]["rollouts"] * 2),
    ),
    "a slot that there is not": ("unknown-slot", lambda value: rollout_of(value).update(slot=4)),
    "a task that there is not": ("unknown-task", lambda value: rollout_of(value).update(task=["bf"])),
    "an index of 49 bits": ("unknown-index", lambda value: rollout_of(value).update(index=2**48)),
    "a question of one's choice": (
        "another-question",
        lambda value: rollout_of(value).update(index=1),
    ),
    "an answer too many": ("another-G", lambda value: rollout_of(value)["answers"].append({})),
    "no answers": ("another-G", lambda value: rollout_of(value)["answers"].clear()),
    "an answer that is None": ("schema", lambda value: answer_of(value).update(text=None)),
    "an answer of a megabyte": ("too-long", lambda value: answer_of(value).update(text="x" * 2**20)),
    "an end that is a number": ("schema", lambda value: answer_of(value).update(ended=1)),
    "ids that are negative": ("schema", lambda value: answer_of(value).update(ids=[-1, 0])),
    "ids that are true": ("schema", lambda value: answer_of(value).update(ids=[True, 0])),
    "ids of no vocabulary": ("schema", lambda value: answer_of(value).update(ids=[2**40, 0])),
    "too many ids": ("too-long", lambda value: answer_of(value).update(ids=[0] * 40_000)),
    "too few log-probabilities": ("schema", lambda value: answer_of(value).update(logprobs=[-1.0])),
    "a positive log-probability": ("schema", lambda value: answer_of(value).update(logprobs=[1.0, 0.0])),
    "a log-probability of no size": ("schema", lambda value: answer_of(value).update(logprobs=[-1e300, 0.0])),
}


@pytest.mark.parametrize(("kind", "change"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_its_kind(kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    assert kind in kinds(edited(change))


def test_what_is_right_beside_it_is_used() -> None:
    value = json.loads(zstandard.ZstdDecompressor().decompress(pack([batch(rollout(), rollout(slot=1))])))
    answer_of(value)["text"] = 7
    found, refused = unpack(zstandard.ZstdCompressor().compress(encode(value)), expected(question=asked))
    assert [one.slot for one in found[0].rollouts] == [1]
    assert [one.kind for one in refused] == ["schema"]


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_raise(data: bytes) -> None:
    assert [one.kind for one in unpack(data, expected()).refused] == ["schema"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
PATHS = st.sampled_from(
    [
        ("batches",), ("batches", 0), ("batches", 0, "node"), ("batches", 0, "step"), ("batches", 0, "rollouts"),
        ("batches", 0, "rollouts", 0), ("batches", 0, "rollouts", 0, "slot"), ("batches", 0, "rollouts", 0, "task"),
        ("batches", 0, "rollouts", 0, "answers"), ("batches", 0, "rollouts", 0, "answers", 0),
        ("batches", 0, "rollouts", 0, "answers", 0, "ids"), ("batches", 0, "rollouts", 0, "answers", 0, "logprobs"),
    ]
)  # fmt: skip


@given(path=PATHS, other=JSON)
def test_any_value_in_any_place_is_used_or_refused_and_never_raises(path: tuple[Any, ...], other: Any) -> None:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = other

    found, refused = unpack(edited(change), expected(question=asked), node=1)
    assert refused or found or other in ([], 0)


def test_a_bomb_is_refused() -> None:
    data = zstandard.ZstdCompressor().compress(b" " * (40 * 1024 * 1024))
    assert kinds(data) == ["schema"]


def test_a_segment_of_wrong_batches_is_looked_at_for_so_long_only() -> None:
    data = edited(lambda value: value.update(batches=[7] * 100_000))
    assert len(unpack(data, expected()).refused) == 1000


def test_the_id_depends_on_all_that_is_in_a_rollout() -> None:
    one = rollout()
    changed = [
        rollout(node=2), rollout(round=6), rollout(slot=1), rollout(texts=("a", "c")),
        Rollout("d" * 64, 1, 5, 0, one.task, one.index, one.answers, one.tokenizer),
        Rollout(CONFIGURATION, 1, 5, 0, one.task, one.index + 1, one.answers, one.tokenizer),
        Rollout(CONFIGURATION, 1, 5, 0, one.task, one.index, one.answers, "u" * 64),
        Rollout(CONFIGURATION, 1, 5, 0, one.task, one.index, one.answers[::-1], one.tokenizer),
    ]  # fmt: skip
    assert len({one.id, *(other.id for other in changed)}) == 9

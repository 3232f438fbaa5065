"""An item's key is the digest of the canonical JSON of the object in docs/format.md, however it is computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.canonical import encode
from hybrid.errors import PluginFault
from hybrid.records import Adapter, Item, Message, Request, Sampling
from hybrid.tuning import Tuning

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSONS = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, JSONS)
SAMPLINGS = st.builds(Sampling, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.lists(TEXTS).map(tuple))
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["user", "system"]), TEXTS)).map(tuple)
REQUESTS = st.builds(
    Request,
    SAMPLINGS,
    MESSAGES,
    TEXTS,
    st.dictionaries(TEXTS, TEXTS),
    st.none() | OBJECTS,
    st.booleans(),
    st.none() | st.builds(Adapter, TEXTS, TEXTS),
    st.none() | st.builds(Tuning, OBJECTS, st.floats(1e-6, 1), st.integers(1, 1000), keep=st.booleans()),
    embed=st.booleans(),
)


def reference_encoding(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.builds(Item, TEXTS, TEXTS, REQUESTS, OBJECTS, st.integers()), TEXTS, TEXTS)
def test_a_key_is_the_digest_of_what_the_format_says(item: Item, stage: str, model: str) -> None:
    request = dataclasses.asdict(item.request)
    request["adapter"] = item.request.adapter.digest if item.request.adapter else None
    del request["key"], request["tuning"], request["role"]  # set by the engine, and by name below
    if not request["embed"]:
        del request["embed"]
    if tuning := item.request.tuning:
        plain = {**dataclasses.asdict(tuning), "targets": list(tuning.targets)}
        del plain["digest"]
        plain["lessons"] = plain.pop("examples")  # the name in the format
        request["tuning"] = hashlib.sha256(reference_encoding(plain)).hexdigest()
    names = {"task": item.task, "question": item.question, "view": item.view, "sample": item.sample}
    value = {"stage": stage, "model": model, "request": request, **names}
    assert item.key(stage, model) == hashlib.sha256(reference_encoding(value)).hexdigest()


def test_an_item_whose_texts_are_none_is_refused_before_it_is_asked() -> None:
    how, number = Sampling(1), 5
    odd: list[Any] = [("a", number, Request(how)), (number, "a/0", Request(how))]
    for task, question, request in odd:
        with pytest.raises(PluginFault, match="is no JSON"):
            Item(task, question, request).key("answer/1", "model")


def test_equal_sampling_settings_that_are_written_differently_have_keys_of_their_own() -> None:
    same = [Sampling(1, temperature) for temperature in (0, 0.0)]
    assert same[0] == same[1]
    assert len({Item("a", "a/0", Request(how)).key("answer/1", "model") for how in same * 2}) == 2


@settings(max_examples=300, deadline=None)
@given(JSONS)
def test_there_is_one_canonical_text_for_a_value(value: Any) -> None:
    assert encode(value) == reference_encoding(value)

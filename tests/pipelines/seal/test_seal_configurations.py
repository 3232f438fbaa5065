"""Self-edits: what is asked, and what is taken for an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.seal.configurations import PAPER, RATES, SCHEMA, Edit, drawn, is_bare, parse, prompt
from pipelines.seal.edit_results import EditResult, right, truths_of

GOOD: dict[str, Any] = {
    "data_generation": {
        "use_basic_augmentations": True,
        "use_size_augmentations": False,
        "use_chain_augmentations": True,
        "use_repeat_augmentations": False,
    },
    "training": {"strategy": "train_using_all_tokens", "learning_rate": 1e-4, "num_train_epochs": 3},
}
EDIT = Edit(True, False, True, False, "train_using_all_tokens", 1e-4, 3)


def changed(part: str, name: str, value: Any) -> str:
    return json.dumps({**GOOD, part: {**GOOD[part], name: value}})


def without(part: str, name: str) -> str:
    return json.dumps({**GOOD, part: {key: value for key, value in GOOD[part].items() if key != name}})


def test_a_reply_in_the_asked_form_is_an_edit() -> None:
    assert parse(json.dumps(GOOD)) == EDIT
    assert parse(json.dumps(GOOD, indent=4)) == EDIT
    assert EDIT.augmentations == ("basic", "chain")
    assert (EDIT.learned, PAPER.learned) == ("all", "answer")


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Here it is:\n{}", "{}\nI chose these because", "  {}\n\n"])
def test_what_stands_around_the_one_object_does_no_harm(around: str) -> None:
    text = around.replace("{}", json.dumps(GOOD))
    assert parse(text) == EDIT
    assert is_bare(text) is (around.strip() == "{}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("I would use a learning rate of 1e-4.", "no JSON object"),
        ('[{"data_generation"', "not whole JSON"),
        (json.dumps(GOOD)[:-1], "not whole JSON"),
        (json.dumps(GOOD).replace("true", "True"), "not whole JSON"),
        (json.dumps(GOOD) + json.dumps(GOOD), "two JSON objects"),
        ("{" * 5000, "not whole JSON"),
        ('{"a":' * 100 + "1" + "}" * 100, "data_generation is missing"),
        ("x" * 9000, "reply too long"),
        (json.dumps({**GOOD, "why": "it is best"}), "an unknown name"),
        (json.dumps({**GOOD, "training": [1]}), "not an object where one belongs"),
        (json.dumps(GOOD["training"]), "data_generation is missing"),
        (without("data_generation", "use_size_augmentations"), "use_size_augmentations is missing"),
        (without("training", "learning_rate"), "learning_rate is missing"),
        (changed("data_generation", "use_mirrors", True), "an unknown name"),
        (changed("data_generation", "use_size_augmentations", "true"), "a tool is neither true nor false"),
        (changed("data_generation", "use_size_augmentations", 1), "a tool is neither true nor false"),
        (changed("data_generation", "use_size_augmentations", None), "a tool is neither true nor false"),
        (changed("training", "strategy", "all"), "unknown strategy"),
        (changed("training", "strategy", ["train_using_all_tokens"]), "unknown strategy"),
        (changed("training", "learning_rate", "1e-4"), "learning_rate is no decimal number"),
        (changed("training", "learning_rate", 1), "learning_rate is no decimal number"),
        (changed("training", "learning_rate", True), "learning_rate is no decimal number"),
        (changed("training", "learning_rate", [1e-4, 1e-5]), "learning_rate is no decimal number"),
        (changed("training", "learning_rate", 5.0), "learning_rate is not over 0 or is over 0.1"),
        (changed("training", "learning_rate", -1e-4), "learning_rate is not over 0 or is over 0.1"),
        (changed("training", "learning_rate", 0.0), "learning_rate is not over 0 or is over 0.1"),
        (json.dumps(GOOD).replace("0.0001", "1e999"), "learning_rate is not over 0 or is over 0.1"),
        (json.dumps(GOOD).replace("0.0001", "NaN"), "NaN or Infinity"),
        (json.dumps(GOOD).replace("0.0001", "-Infinity"), "NaN or Infinity"),
        (changed("training", "num_train_epochs", 2.0), "num_train_epochs is no whole number"),
        (changed("training", "num_train_epochs", "2"), "num_train_epochs is no whole number"),
        (changed("training", "num_train_epochs", False), "num_train_epochs is no whole number"),
        (changed("training", "num_train_epochs", 0), "num_train_epochs is not 1 to 1000"),
        (changed("training", "num_train_epochs", -3), "num_train_epochs is not 1 to 1000"),
        (changed("training", "num_train_epochs", 10**12), "num_train_epochs is not 1 to 1000"),
        (json.dumps(GOOD).replace(": 3", ": " + "9" * 5000), "not whole JSON"),
        (json.dumps(GOOD).replace('"learning_rate"', '"learning_rate": 1e-5, "learning_rate"'), "a name twice"),
    ],
    ids=range(38),
)  # fmt: skip
def test_what_is_no_edit_is_refused_with_a_reason_that_can_be_counted(text: str, reason: str) -> None:
    assert parse(text) == reason


def test_the_schema_allows_what_is_read_and_names_nothing_else() -> None:
    assert set(SCHEMA["required"]) == set(GOOD)
    for part, names in GOOD.items():
        inner = SCHEMA["properties"][part]
        assert set(inner["required"]) == set(inner["properties"]) == set(names)
        assert inner["additionalProperties"] is False


def test_the_prompt_shows_demonstrations_in_digits_and_every_name_that_is_asked_for() -> None:
    system, user = prompt([(((1, 2), (3, 4)), ((5,),)), (((6,),), ((7, 8),))])
    assert system.role == "system"
    assert user.content.startswith("Input:\n1 2\n3 4\nOutput:\n5\n\nInput:\n6\nOutput:\n7 8\n\n-----")
    for name in (*GOOD, *GOOD["data_generation"], *GOOD["training"]):
        assert f'"{name}"' in user.content


def test_random_configurations_are_the_same_every_time_and_differ_by_task_number_and_seed() -> None:
    edits = [drawn(0, "t", number) for number in range(200)]
    assert edits == [drawn(0, "t", number) for number in range(200)]
    assert edits != [drawn(1, "t", number) for number in range(200)]
    assert edits != [drawn(0, "u", number) for number in range(200)]
    assert {edit.learning_rate for edit in edits} == set(RATES)
    assert {edit.epochs for edit in edits} == {1, 2, 3}
    assert {len(edit.augmentations) for edit in edits} == {0, 1, 2, 3, 4}
    assert drawn(0, "t", 0) == Edit(True, True, True, False, "train_using_all_tokens", 0.0002, 3)


RESULT = EditResult(
    edit=EDIT.to_json(),
    reply="{}",
    bare=True,
    attempts=((((1,),), ((2,),)), ()),
    base=None,
    fixed=((((1, 2),),),),
    random=(None, ((((3,),),),)),
    steps=7,
)


def test_a_result_survives_its_text() -> None:
    assert EditResult.from_text(RESULT.to_text()) == RESULT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempts", [[[[10]]]]),
        ("attempts", [[[[1]], [[2]], [[3]]]]),
        ("attempts", []),
        ("attempts", {"0": []}),
        ("steps", -1),
        ("steps", True),
        ("steps", 10**30),
        ("first", 1),
        ("edit", [1]),
        ("arms", []),
        ("together", [[[[[1, 2], [3]]]]]),
        ("random", None),
    ],
)
def test_another_text_is_no_result(name: str, value: Any) -> None:
    value = {**json.loads(RESULT.to_text()), name: value}
    if name == "random":
        del value["random"]
        value["arms"]["random"] = None
    with pytest.raises(ValueError, match="not the record of a self-edit"):
        EditResult.from_text(json.dumps(value))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 5000, '{"attempts": NaN}'])
def test_garbage_is_no_result(text: str) -> None:
    with pytest.raises(ValueError, match="not the record of a self-edit"):
        EditResult.from_text(text)


def test_a_task_is_right_when_every_test_input_is() -> None:
    a, b, c = ((1,),), ((2,),), ((3,),)
    assert right(((a, b), (c,)), (b, c))
    assert not right(((a, b), ()), (b, c))
    assert not right(((a, b),), (b, c))
    assert not right(((a, b), (c,)), (b,))
    assert truths_of([[[1]], [[2]]]) == (a, b)
    for other in (None, [], [[1]], "1", [[[11]]], {"0": [[1]]}):
        assert truths_of(other) is None

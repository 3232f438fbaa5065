"""What llama.cpp's converter of JSON schemas passes over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.backends.llama_schemas import passed_over

INTEGER = {"type": "integer"}
INTEGERS = {"type": "array", "items": INTEGER}
PAIR = {"type": "object", "properties": {"a": INTEGER, "b": INTEGER}}
TEXT = {"type": "string"}
MEMBERS = (
    "type",
    "properties",
    "required",
    "items",
    "prefixItems",
    "minItems",
    "anyOf",
    "enum",
    "$defs",
    "pattern",
    "minimum",
)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        INTEGER | {"minimum": 1, "exclusiveMaximum": 5, "title": "A rating"},
        TEXT | {"minLength": 1, "maxLength": 5},
        TEXT | {"pattern": "^[a-z]+$"},
        TEXT | {"format": "date-time"},
        TEXT | {"enum": ["yes", "no"]},
        INTEGER | {"maxLength": 3},
        INTEGERS | {"minItems": 1, "maxItems": 2},
        {"type": "array", "prefixItems": [INTEGER, TEXT], "minItems": 2, "maxItems": 2},
        PAIR | {"required": ["a"], "additionalProperties": False},
        {"type": ["integer", "null"], "minimum": 1},
        {"anyOf": [INTEGER, {"type": "null"}], "description": "perhaps"},
        {
            "$defs": {"rating": INTEGER | {"maximum": 5}},
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/rating"}},
        },
    ],
)
def test_a_schema_of_which_every_member_is_read(schema: dict[str, Any]) -> None:
    assert passed_over(schema) == ""


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "number", "minimum": 0}, "minimum"),
        (INTEGER | {"multipleOf": 5}, "multipleOf"),
        (INTEGER | {"minimum": 1, "exclusiveMinimum": 3}, "exclusiveMinimum"),
        (TEXT | {"pattern": "^(?!no)[a-z]+$"}, "pattern"),
        (TEXT | {"pattern": "^[a-z]+$", "maxLength": 3}, "maxLength"),
        (TEXT | {"format": "email"}, "format"),
        (TEXT | {"not": {"enum": ["no"]}}, "not"),
        (INTEGERS | {"uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "minItems": 2}, "minItems"),
        ({"type": "array", "prefixItems": [INTEGER], "minItems": 2}, "minItems"),
        (PAIR | {"minProperties": 1}, "minProperties"),
        (PAIR | {"required": ["c"]}, "required.c"),
        ({"type": "object", "required": ["a"]}, "required"),
        (PAIR | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "type"),
        ({"allOf": [PAIR]}, "allOf"),
        ({"type": ["integer", "null"], "multipleOf": 2}, "multipleOf"),
        ({"anyOf": [TEXT, {"type": "number", "maximum": 1}]}, "anyOf.1.maximum"),
        (
            PAIR | {"properties": {"a": INTEGERS | {"items": INTEGER | {"multipleOf": 2}}}},
            "properties.a.items.multipleOf",
        ),
        ({"$defs": {"x": {"type": "number", "minimum": 0}}, "$ref": "#/$defs/x"}, "$defs.x.minimum"),
    ],
)
def test_the_first_member_that_is_passed_over_is_named(schema: dict[str, Any], place: str) -> None:
    assert passed_over(schema) == place


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["integer", "string", "a", "^x$"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), part, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(MEMBERS), ANY, max_size=5))
def test_what_is_no_schema_at_all_is_read_without_an_error(schema: dict[str, Any]) -> None:
    assert isinstance(passed_over(schema), str)

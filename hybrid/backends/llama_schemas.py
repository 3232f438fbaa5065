"""What llama.cpp and Ollama, which has its converter, do not hold an answer to, though a JSON schema asks for it.

The converter makes a grammar of a schema by the first member that it knows and passes over the others in silence
(llama.cpp, common/json-schema-to-grammar.cpp, `SchemaConverter::visit`; the same steps stand here). A build of
llama.cpp with llguidance, as the backend llamacpp has, refuses what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hybrid.records import Failure

NOTES = frozenset(
    {"$anchor", "$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "title"}
    | {"readOnly", "writeOnly"}
)
"""Members that allow and forbid nothing."""
SHELVES = frozenset({"$defs", "definitions"})
"""Members with schemas for `$ref`."""
ONLY_FOR = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
}
"""Members that say nothing of values of other types."""
FORMATS = re.compile("uuid[1-5]?|date|time|date-time")


def passed_over(schema: Mapping[str, Any]) -> str:
    """The place of the first member that is passed over, such as `properties.score.multipleOf`; "" for none."""
    return next((".".join(place) for place in _passed_over(schema, ())), "")


def refusal(schema: Mapping[str, Any], engine: str) -> Failure | None:
    """Why a schema is refused that `engine` would hold an answer to in part only; None when it holds all of it."""
    if place := passed_over(schema):
        return Failure("bad-schema", f"{engine} would not hold an answer to {place!r:.200} of the schema")
    return None


def _passed_over(schema: Any, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(schema, Mapping):
        return  # `true` and `false` are refused with an error
    kind = schema.get("type")
    if not isinstance(kind, str | list | None):
        kind = repr(kind)  # no type: refused with an error
    if isinstance(kind, list) and not {"$ref", "oneOf", "anyOf"} & schema.keys():
        for one in kind:
            yield from _passed_over({**schema, "type": one}, place)
        return
    read = _read(schema, kind)
    for name, value in schema.items():
        if name in read or name in SHELVES:
            for within, part in _parts(name, value):
                yield from _passed_over(part, (*place, *within))
        elif name not in NOTES and _says_something(name, kind):
            yield (*place, name)
    if "required" in read:
        names = [str(one) for one in _listed(schema.get("required"))]
        yield from ((*place, "required", one) for one in names if one not in _mapped(schema.get("properties")))


def _says_something(name: str, kind: object) -> bool:
    """Whether a member restricts values of this type; None is any."""
    types = [one for one, names in ONLY_FOR.items() if name in names]
    return kind is None or not types or ("number" if kind == "integer" else kind) in types


def _read(schema: Mapping[str, Any], kind: object) -> Collection[str]:
    """The members of a schema that make its grammar, in the order in which the converter looks for them."""
    for name in ("$ref", "oneOf", "anyOf"):
        if name in schema:
            return {name}
    if "const" in schema or "enum" in schema:
        return {"type", "const" if "const" in schema else "enum"}
    if kind in (None, "object") and ("properties" in schema or schema.get("additionalProperties", True) is not True):
        return {"type", "properties", "required", "additionalProperties"}
    if kind in (None, "array") and ("items" in schema or "prefixItems" in schema):
        return {"type", *_read_of_array(schema)}
    return {"type", *(_read_of_integer(schema) if kind == "integer" else _read_of_text(schema, kind))}


def _read_of_array(schema: Mapping[str, Any]) -> Collection[str]:
    name = "items" if "items" in schema else "prefixItems"
    if not isinstance(schema[name], list):
        return {name, "minItems", "maxItems"}
    length = len(schema[name])  # an array of exactly as many items
    return {name, *(bound for bound in ("minItems", "maxItems") if schema.get(bound) == length)}


def _read_of_integer(schema: Mapping[str, Any]) -> Collection[str]:
    pairs = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
    return {usual if usual in schema else exclusive for usual, exclusive in pairs}


def _read_of_text(schema: Mapping[str, Any], kind: object) -> Collection[str]:
    if kind not in (None, "string"):
        return ()
    if "pattern" in schema:
        return () if "(?" in str(schema["pattern"]) else ("pattern",)
    if FORMATS.fullmatch(str(schema.get("format"))):
        return ("format",)
    return ("minLength", "maxLength") if kind else ()


def _parts(name: str, value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas in a member, with their places."""
    if name in ("items", "additionalProperties") and isinstance(value, Mapping):
        yield (name,), value
    elif name in ("properties", *SHELVES):
        yield from (((name, one), part) for one, part in _mapped(value).items())
    elif name in ("oneOf", "anyOf", "items", "prefixItems"):
        yield from (((name, str(number)), part) for number, part in enumerate(_listed(value)))


def _mapped(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""The JSON encoder and decoder of all our files.

The encoder is canonical (sorted keys, no spaces, UTF-8, no NaN), so the digest of a value is the digest of its bytes
and two machines agree on both. The decoder refuses NaN, too deep nesting and, through `limit`, too many bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, TypeAlias

import orjson

from hybrid.errors import BadData

Json: TypeAlias = Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
"""A JSON value. The keys of mappings are texts."""

MAX_DEPTH = 200
"""Deepest nesting of objects and arrays in a value; every JSON parser accepts more."""

MAX_RECORD = 16 * 1024 * 1024
"""Largest record that is read or written, in bytes."""


ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
quoted = encode_basestring
"""`encoded` for a text, without the check of the type."""
PLAIN = {str, int, float, bool, type(None)}
"""Types of values that hold no others."""
LITERALS = {None: "null", True: "true", False: "false"}


def encode(value: Json) -> bytes:
    """`value` as canonical JSON.

    Raises ValueError on NaN, infinities and lone surrogates, TypeError on other types, BadData when it is too deep.
    """
    return encoded(value).encode()


def encoded(value: Json) -> str:
    """Like `encode`, as a text; fast for scalars. Raises what `encode` raises."""
    kind = type(value)
    if kind is str:
        return quoted(value)  # type: ignore[arg-type]
    if kind is int or (kind is float and isfinite(value)):  # type: ignore[arg-type]
        return repr(value)
    if value is None or kind is bool:
        return LITERALS[value]  # type: ignore[index]
    try:
        return ENCODER.encode(value)
    except RecursionError as error:
        raise BadData("a JSON value is nested too deep to be written") from error


def decode(data: bytes | str, *, what: str, limit: int = MAX_RECORD) -> Any:
    """The JSON value in `data`; `what` names the file and line for the error. Raises BadData."""
    if len(data) > limit:
        raise BadData(f"{what}: {len(data):,} bytes, more than the {limit:,} allowed")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadData(f"{what}: not valid JSON: {_reason(data, error)}") from error
    if too_deep(value, data):
        raise BadData(
            f"{what}: nested more than {MAX_DEPTH} levels deep", hint="docs/format.md says what a file may hold"
        )
    return value


def _reason(data: bytes | str, error: ValueError) -> str:
    """The parser's message; for bytes that are not UTF-8 a clearer one."""
    if isinstance(data, bytes):
        try:
            data.decode()
        except UnicodeDecodeError as odd:
            return f"not UTF-8: byte {data[odd.start]:#04x} at {odd.start:,}"
    return str(error)


def decode_once(data: bytes, *, what: str, limit: int = MAX_RECORD) -> Any:
    """Like `decode`, for files that people write: a duplicate name in an object raises BadData.

    JSON does not define which of the two counts, and a parser silently takes the last.
    """
    value = decode(data, what=what, limit=limit)

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            name = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
            raise BadData(f"{what}: the name {name!r:.80} stands twice in one object", hint="leave one of them")

    json.loads(data, object_pairs_hook=look)
    return value


def too_deep(value: Any, data: bytes | str) -> bool:
    """Whether `value`, parsed from `data`, has more than MAX_DEPTH levels of objects and arrays."""
    openings = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    return openings > MAX_DEPTH and is_deep(value)  # nearly always there are fewer


def is_deep(value: Any) -> bool:
    """Whether `value` has more than MAX_DEPTH levels of objects and arrays.

    Without recursion, since a deep value would exceed Python's limit.
    """
    level = _containers((value,))
    for _ in range(MAX_DEPTH):
        level = [child for one in level for child in _containers(one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return True


def _containers(values: Collection[Any]) -> list[Any]:
    """Those of `values` that hold others. Nearly always there are none: a grid's rows have a million cells."""
    if PLAIN.issuperset(map(type, values)):
        return []
    return [one for one in values if isinstance(one, dict | list | tuple)]


def digest(value: Json) -> str:
    """sha256 of the canonical JSON of `value`, 64 hex digits."""
    return hashlib.sha256(encode(value)).hexdigest()

"""How a foreign file is to be read, what is a bad row, and the record that a row becomes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from hybrid.canonical import Json
from hybrid.errors import keys_of

LARGEST = 64 * 1024 * 1024
"""Most bytes of one sample or row: logs of agents hold every event, so they are larger than our own records."""

LONGEST_MESSAGE = 2000
"""Characters kept of the message of a failure."""

LONGEST_ID = 500


class BadRow(ValueError):
    """One row cannot be read; the others may be. The message says what is wrong, its place comes from the reader."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a person says of a foreign file.

    `format` "" recognizes it by its content. `columns` maps a field (`text`, `reference`, ...) to the column that holds
    it. `inputs` is a file with what was asked. `filter` is the one of lm-eval's filters whose responses are read, ""
    for all. `skip_bad` leaves bad rows out and counts them.
    """

    format: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    inputs: Path | None = None
    filter: str = ""
    skip_bad: bool = False


USUAL = Reading()
"""Recognized by its content, and no bad row is passed over."""


class Found(NamedTuple):
    """A row as the file has it: where it is, and its content or why there is none."""

    place: str
    content: Any


class Format(Protocol):
    """A foreign file that is open: what its header says, its rows, and the records that a row becomes."""

    @property
    def run(self) -> Mapping[str, Json]:
        """The member `run` of the outputs: `about` says what the file tells of itself, and which grader it wants."""
        ...

    @property
    def models(self) -> list[Json]:
        """The member `models` of the outputs."""
        ...

    def rows(self) -> Iterator[Found]:
        """Every row in file order. Raises BadData for what makes the rest of the file unreadable."""
        ...

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The records of a row, made with `record`. Raises BadRow."""
        ...

    def lacks(self, rows: int) -> str:
        """What the file should hold beside the `rows` that were read, "" when nothing is missing."""
        ...


class Answer(NamedTuple):
    """What came of a request: a text, or the kind and message of a failure."""

    text: str | None
    failure: tuple[str, str] | None = None
    finish: str = ""
    tokens: tuple[int, int] = (0, 0)
    thought: str = ""


def record(
    id: str,
    answer: Answer,
    *,
    task: str = "",
    key: str = "",
    reference: Json = None,
    view: Mapping[str, Json] | None = None,
    sample: int = 0,
) -> dict[str, Json]:
    """A record of outputs.json (docs/format.md); `id` is the question, the cluster is `task` or else the question."""
    failed = answer.failure
    return {
        "key": key or id,
        "task": task or id,
        "question": id,
        "view": view or {},
        "sample": sample,
        "text": answer.text if failed is None else None,
        "error": None if failed is None else {"kind": failed[0], "message": failed[1][:LONGEST_MESSAGE]},
        "finish": answer.finish,
        "tokens": list(answer.tokens),
        "reference": reference,
        **({"thought": answer.thought} if answer.thought else {}),
    }


def parsed(line: bytes) -> Any:
    """The JSON value in `line`; NaN and infinities, which other tools write, are numbers. Raises BadRow.

    A whole number beyond 64 bits, which no score, id or count is, becomes the nearest float.
    """
    if len(line) > LARGEST:
        raise BadRow(f"{len(line):,} bytes, more than the {LARGEST:,} allowed")
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass  # NaN and lone surrogates: the standard library takes them
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not valid JSON: {error!s:.100}") from error


def object_in(value: Any, what: str = "the row") -> dict[str, Any]:
    """`value`, which must be an object. Raises BadRow."""
    if not isinstance(value, dict):
        raise BadRow(f"{what} is no JSON object: {keys_of(value)}")
    return value


def row_in(content: Any) -> dict[str, Any]:
    """The object of a row: of its line, or as it was read. Raises BadRow, also one that was found before."""
    if isinstance(content, BadRow):
        raise content
    return object_in(parsed(content) if isinstance(content, bytes) else content)


def id_of(value: Any, name: str) -> str:
    """An id as a text. Raises BadRow when it is no text or whole number."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadRow(f"its {name} is {value!r:.60}, neither a text nor a whole number")
    if isinstance(value, str) and len(value) > LONGEST_ID:
        raise BadRow(f"its {name} has {len(value):,} characters, more than the {LONGEST_ID} allowed")
    return str(value)


def plain(value: Any) -> Json:
    """`value` with null for each number that is not finite, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def whole(value: Any) -> int:
    """A count of tokens; 0 for what is none."""
    return value if type(value) is int and 0 <= value < 2**53 else 0

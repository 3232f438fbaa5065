"""What `hybrid export` wrote of an output beside its text, taken for what it is when the file is read again.

A table has it in columns, a log of inspect in a sample's metadata. Without it the samples and the arms of a question
would be questions of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hybrid.canonical import Json
from hybrid.formats.reading import Answer, BadRow, id_of, parsed, record, whole

COLUMNS = frozenset({"run", "task", "question", "key", "sample", "view", "text", "error", "reference"})
"""Columns that every table of ours has."""


class Named(NamedTuple):
    """Where an output belongs."""

    task: str
    question: str
    key: str
    view: Mapping[str, Json]


def is_table_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the columns of our tables."""
    return row.keys() >= COLUMNS


def record_of(row: Mapping[str, Any], sample: int) -> dict[str, Json]:
    """The record of a row of our tables. Raises BadRow."""
    if missing := next((name for name in sorted(COLUMNS) if name not in row), ""):
        raise BadRow(f"no column {missing!r}, which the first row has")
    if isinstance(row["sample"], str):  # a CSV, where all cells are texts and formulas have a mark before them
        row = {name: _unmarked(cell) for name, cell in row.items()}
    named = _named({**row, "view": _json(row["view"])})
    kind = row["error"]
    failure = (str(kind), str(row.get("error_message") or "")) if kind else None
    tokens = whole(_number(row.get("prompt_tokens"))), whole(_number(row.get("completion_tokens")))
    text = None if failure else str(row["text"] or "")
    return record(
        named.question,
        Answer(text, failure, str(row.get("finish") or ""), tokens, str(row.get("thought") or "")),
        task=named.task,
        key=named.key,
        reference=_json(row["reference"]),
        view=named.view,
        sample=sample,
    )


def in_metadata(metadata: Any) -> Named | None:
    """Where the output of an inspect sample belongs, by the metadata that we wrote; None for those of others."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("view"), Mapping):
        return None
    try:
        return _named(metadata)
    except BadRow:
        return None


def _named(values: Mapping[str, Any]) -> Named:
    view = values["view"]
    if not isinstance(view, Mapping):
        raise BadRow("its view is no object")
    return Named(id_of(values.get("task"), "task"), id_of(values.get("question"), "question"),
                 id_of(values.get("key"), "key"), dict(view))  # fmt: skip


def _unmarked(cell: Any) -> Any:
    """A cell of a CSV without the `'` that keeps a spreadsheet from computing it."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") else cell


def _json(cell: Any) -> Any:
    """A cell that holds a list or an object as JSON; any other as it is, an empty one is None."""
    if isinstance(cell, str) and cell[:1] in ("[", "{"):
        try:
            return parsed(cell.encode())
        except BadRow:
            return cell
    return None if cell == "" else cell


def _number(cell: Any) -> Any:
    return int(cell) if isinstance(cell, str) and cell.isascii() and cell.isdigit() and len(cell) < 10 else cell

"""Which tool wrote a file, by its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from hybrid.errors import BadData
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import BadRow, Reading, parsed
from hybrid.outputs import BEGINS
from hybrid.outputs.source import OutputsSource

FORMATS = ("inspect", "lm-eval", "openai-batch", "arc-submission", "helm", "table", "hybrid")
"""Names of the formats, as `--from` takes them."""

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
PARQUET = b"PAR1"
DELIMITED = (".csv", ".tsv")
"""Endings of files that are text like any other; only the error for a file without the column depends on them."""
FIRST_LINE = 1024 * 1024
"""Bytes of the first line that are looked at as a row; a longer one is looked at as a document."""
FIRST = 4
"""Members at the beginning of a document by which its tool is known."""


def recognized(source: OutputsSource, reading: Reading) -> str:
    """The name of the format, `FORMAT:part` for a file of it without answers, `hybrid` for all that is unknown."""
    with source.open() as stream:
        begins = stream.peek(4)[:4]
        line = stream.readline(FIRST_LINE) if begins[:1] == b"{" else b""
        single = not line.endswith(b"\n") or not stream.peek(1)[:1]
    if begins in ZIP:
        return "inspect"
    if line.startswith(BEGINS):
        return "hybrid"
    row = _object(line)
    found = _of_row(row) if row is not None else ""
    if not found and begins[:1] in (b"{", b"[") and (row is None or single):
        found = _of_document(source)
    if found or _is_table(source, begins, row, reading):
        return found or "table"
    return "table:unnamed" if begins[:1] not in (b"{", b"[") and _seems_header(source) else "hybrid"


def _is_table(source: OutputsSource, begins: bytes, row: Mapping[str, Any] | None, reading: Reading) -> bool:
    """Whether the answers are in a column that a person names, or that is called `text`."""
    if row is not None:
        return bool(row) and not _ours(row)
    if begins == PARQUET:
        return True
    if begins[:1] in (b"{", b"[", b""):
        return False
    return bool(reading.columns) or source.path.suffix.lower() in DELIMITED or _has_text(source)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = parsed(line) if line else None
    except BadRow:
        return None
    return value if isinstance(value, dict) else None


def _of_row(row: Mapping[str, Any]) -> str:
    """The format of JSON lines by the members of a row."""
    if "doc_id" in row and row.keys() & {"resps", "filtered_resps", "target"}:
        return "lm-eval"
    if "custom_id" in row and row.keys() & {"response", "error"}:
        return "openai-batch"
    if "custom_id" in row and "body" in row:
        return "openai-batch:input"
    return ""


def _ours(row: Mapping[str, Any]) -> bool:
    return bool(row.keys() & {"format", "key"})


def _of_document(source: OutputsSource) -> str:
    """The format of one JSON document by its first members or its first element; "" for another."""
    try:
        with source.open() as stream:
            document = JsonStream(stream, source.name)
            if document.begins() == "[":
                return _of_element(next(document.elements(), None))
            return _of_members(dict(islice(_members(document), FIRST)))
    except BadData:
        return ""


def _members(document: JsonStream) -> Iterator[tuple[str, Any]]:
    """Names and values; of an array only that it is one, and its first element."""
    for name in document.members():
        value = document.value() if document.begins() != "[" else [next(document.elements(), None)]
        yield name, value
        if isinstance(value, list):
            return


def _of_members(found: Mapping[str, Any]) -> str:
    """The format by the first members of an object."""
    if "format" in found:
        return ""
    if isinstance(found.get("eval"), dict) and found.keys() & {"version", "status"}:
        return "inspect"
    if found.keys() & {"scenario_spec", "metric_specs"}:
        return "helm:statistics"
    if found.keys() & {"adapter_spec", "request_states"}:
        return "helm"
    if isinstance(found.get("results"), dict):
        return "lm-eval:results"
    return _of_grids(next(iter(found.values()), None)) or _of_row(found)


def _of_grids(first: Any) -> str:
    """The format of an object whose members are tasks, by the first task's."""
    one = first[0] if isinstance(first, list) and first else None
    if isinstance(one, dict) and one.keys() & {"attempt_1", "attempt_2"}:
        return "arc-submission"
    return "arc-submission:solutions" if isinstance(one, list) and one and isinstance(one[0], list) else ""


def _of_element(first: Any) -> str:
    if not isinstance(first, dict):
        return ""
    if ("instance_id" in first and "stats" in first) or (isinstance(first.get("name"), dict) and "sum" in first):
        return "helm:statistics"
    return _of_row(first) or ("" if _ours(first) else "table")


def _has_text(source: OutputsSource) -> bool:
    """Whether the first line names a column `text`."""
    cells = _first_cells(source)
    return len(cells) > 1 and b"text" in {cell.strip(b' "') for cell in cells}


def _seems_header(source: OutputsSource) -> bool:
    """Whether the first line may name the columns of a table."""
    cells = [cell.decode("utf-8", "replace") for cell in _first_cells(source)]
    return len(cells) > 1 and all(cell.isprintable() for cell in cells)


def _first_cells(source: OutputsSource) -> list[bytes]:
    """The cells of the first line, whatever divides them."""
    with source.open() as stream:
        line = stream.readline(FIRST_LINE)
    return line.replace(b"\t", b",").replace(b";", b",").strip().split(b",")

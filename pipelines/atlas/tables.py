"""Tables of texts in files: tab-separated as GLUE has them, comma-separated, or JSON Lines.

Files are untrusted input: sizes are bounded, and every message names the file and the line as an editor counts it, with
the header and empty lines. A tab-separated file has no quotes: a quotation mark is one of the text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.canonical import decode_once
from hybrid.errors import BadData, CannotRun, keys_of, listed
from hybrid.machine.text_files import read_text_file, utf8

if TYPE_CHECKING:
    from _csv import Reader

Cells = tuple[int, list[str]]
"""A row as it was read, with the line on which it begins."""
MAX_FILE = 256 * 1024 * 1024  # bytes; the largest train set of GLUE's small tasks has 10 million
MAX_CELL = 100_000  # characters
MAX_ROWS = 2_000_000
ENDINGS = ".tsv", ".csv", ".jsonl", ".txt"
"""Of the files that are read; .txt is tab-separated."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file, each with as many cells as there are columns, by the line on which it begins."""

    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, tuple[str, ...]]]

    def column(self, names: Sequence[str]) -> int | None:
        """The place of the first of `names` that is a column, in any case; None when none is."""
        places = {name.strip().lower(): place for place, name in reversed(list(enumerate(self.columns)))}
        return next((places[name.lower()] for name in names if name.lower() in places), None)


def read_table(path: Path, headerless: Sequence[str] = ()) -> Table:
    """The table in a file. `headerless`: the columns of a tab-separated file that may have no header.

    Raises CannotRun when the file cannot be read, BadData when it is no such table.
    """
    hint = f"files of a task end in {', '.join(ENDINGS)}"
    if path.suffix.lower() not in ENDINGS:
        raise CannotRun(f"{path}: not a file of a kind that is read", hint=hint)
    text = utf8(read_text_file(path, MAX_FILE, hint), str(path)).decode()
    if path.suffix.lower() == ".jsonl":
        return _json_lines(path, text)
    lines = _comma_separated(path, text) if path.suffix.lower() == ".csv" else _tab_separated(path, text)
    if not lines:
        raise BadData(f"{path}: no row", hint="its first row names the columns")
    header = tuple(lines[0][1])
    if headerless and len(header) == len(headerless) and not {name.lower() for name in header} & {*headerless}:
        header = tuple(headerless)
    else:
        lines = lines[1:]
    if not lines:
        raise BadData(f"{path}: a header without a row after it", hint="a row of a text and a label follows it")
    return Table(path, header, [_row(path, number, cells, header) for number, cells in lines])


def _tab_separated(path: Path, text: str) -> list[Cells]:
    """The rows; only line feeds end a line, since texts may hold other separators of Unicode."""
    lines = enumerate(text.split("\n"), 1)
    return _bounded(path, ((at, line.removesuffix("\r").split("\t")) for at, line in lines if line.strip("\r")))


def _comma_separated(path: Path, text: str) -> list[Cells]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)  # a spreadsheet may write semicolons
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return _bounded(path, _with_lines(reader))
    except csv.Error as error:
        raise BadData(f"{path}: line {reader.line_num}: {error}", hint="quotes in a quoted cell are doubled") from error


def _with_lines(reader: Reader) -> Iterator[Cells]:
    """The rows of a CSV file; a quoted cell may hold line breaks, so that a row has several lines."""
    begins = 1
    for cells in reader:
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def _json_lines(path: Path, text: str) -> Table:
    """One object a line; the columns are those of all lines together, and what a line lacks is an empty cell."""
    found: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            value = decode_once(line.encode(), what=f"{path}: line {number}", limit=MAX_FILE)
            if not isinstance(value, dict):
                raise BadData(f"{path}: line {number}: {keys_of(value)}")
            found.append((number, {name: _cell(cell) for name, cell in value.items()}))
    columns = tuple(dict.fromkeys(name for _, row in found for name in row))
    if not columns:
        raise BadData(f"{path}: no row", hint='a line is an object such as {"text": "...", "label": "..."}')
    rows = _bounded(path, ((at, [row.get(name, "") for name in columns]) for at, row in found))
    return Table(path, columns, [_row(path, number, cells, columns) for number, cells in rows])


def _cell(value: object) -> str:
    """A text as it is, a number or a truth value as JSON writes it; null is nothing. Other columns do not matter."""
    if value is None or isinstance(value, list | dict):
        return ""
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    return value if isinstance(value, str) else str(int(value)) if isinstance(value, int | float) else ""


def _bounded(path: Path, rows: Iterator[Cells]) -> list[Cells]:
    found = []
    for row in rows:
        found.append(row)
        if len(found) > MAX_ROWS:
            raise BadData(f"{path}: more than the {MAX_ROWS:,} rows allowed")
    return found


def _row(path: Path, line: int, cells: Sequence[str], columns: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    if len(cells) != len(columns):
        quoted = path.suffix.lower() != ".csv" and any(cell.startswith('"') for cell in cells)
        hint = (
            "a tab-separated file has no quotes; save it as .csv" if quoted else "each row has a cell for each column"
        )
        raise BadData(
            f"{path}: line {line}: {len(cells)} cells for the {len(columns)} columns {listed(columns)}", hint=hint
        )
    if any(len(cell) > MAX_CELL for cell in cells):
        raise BadData(f"{path}: line {line}: a cell of more than the {MAX_CELL:,} characters allowed")
    return line, tuple(cells)

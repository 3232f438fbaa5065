"""Chooses the reader of a table file by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BufferedReader
from pathlib import Path

from hybrid.errors import UsageError
from hybrid.machine.files import explain_errors
from hybrid.machine.packed_texts import opened_text
from hybrid.rows.delimited import delimited_rows
from hybrid.rows.json_rows import document_rows, line_rows
from hybrid.rows.parquet import parquet_rows
from hybrid.rows.row import Faults, Row, Told, Unit

Reader = Callable[[BufferedReader, Faults], Iterator[Row]]

TEXTS: Mapping[str, tuple[Unit, Reader]] = {
    ".jsonl": ("line", line_rows),
    ".ndjson": ("line", line_rows),
    ".json": ("row", document_rows),
    ".csv": ("line", partial(delimited_rows, delimiter=",")),
    ".tsv": ("line", partial(delimited_rows, delimiter="\t")),
}
PARQUET = ".parquet"
PACKED = ".zst"
ENDINGS = (*TEXTS, PARQUET)
"""Endings of the names of the files that are read; those of texts may have `.zst` behind them."""


def read_rows(path: Path, *, bad: Told | None = None) -> Iterator[Row]:
    """The rows of a table file, one at a time; of texts no more than one is in memory.

    A bad row (no object, other cells than the header has, not UTF-8, too large) raises BadData with its number. With
    `bad`, that is called with its number and what is wrong, and the good rows are given. What makes the rest of the
    file unreadable raises BadData all the same.

    Raises UsageError for what is no file or has another ending, CannotRun for a Parquet file without pyarrow, Temporary
    for a disk that goes away.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint=f"name one that ends with {_either(ENDINGS)}")
    ending = _ending(path)
    if ending == PARQUET:
        return parquet_rows(Faults(path, "row", bad))
    if ending not in TEXTS:
        raise UsageError(
            f"{path}: the ending of its name does not say what is in it", hint=f"it ends with {_either(ENDINGS)}"
        )
    unit, reader = TEXTS[ending]
    return _text_rows(reader, Faults(path, unit, bad))


def unit_of(path: Path) -> Unit:
    """What the number of a row of the file counts."""
    return TEXTS[_ending(path)][0] if _ending(path) in TEXTS else "row"


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(PACKED)).suffix.lower()


def _text_rows(reader: Reader, faults: Faults) -> Iterator[Row]:
    with explain_errors(faults.path, doing="reading it"), opened_text(faults.path) as stream:
        yield from reader(stream, faults)


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"

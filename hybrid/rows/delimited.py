"""Rows of CSV and TSV files, whose first row names the columns (RFC 4180: quoted cells may hold line ends)."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BufferedReader

from hybrid.canonical import MAX_RECORD
from hybrid.rows.json_rows import skip_line
from hybrid.rows.row import TOO_LARGE, Faults, Row

_UNDECODED = re.compile("[\udc80-\udcff]")
_HINT = "the first row of the file names the columns, each name once"


class _TooLarge(Exception):
    """A row has more than MAX_RECORD bytes."""


class _Lines:
    """The lines of a stream as texts, with bytes that are not UTF-8 as lone surrogates; bounds the bytes of a row."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self.number = 0  # of the last line that was read
        self.size = 0  # bytes of the row that is being read

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(MAX_RECORD - self.size + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.size += len(line)
        if self.size > MAX_RECORD:
            skip_line(self._stream, line)
            raise _TooLarge
        return line.decode("utf-8", "surrogateescape")


def delimited_rows(stream: BufferedReader, faults: Faults, *, delimiter: str) -> Iterator[Row]:
    """The rows below the header; every cell is a text. Empty lines are passed over.

    Of a CSV whose header has semicolons and no comma, as spreadsheets of many countries write it, these are between
    the cells. The number of a row is that of its first line.
    """
    csv.field_size_limit(MAX_RECORD)  # of the process: the module's own, 131,072, is less than a long document
    begins = stream.peek(1).partition(b"\n")[0]
    semicolons = delimiter == "," and b";" in begins and b"," not in begins
    names: Sequence[str] = ()
    for number, cells in _records(stream, faults, ";" if semicolons else delimiter):
        if not names:
            names = _header(number, cells, faults)
        elif reason := _wrong(cells, names):
            faults.found(number, reason)
        else:
            yield faults.row(number, dict(zip(names, cells, strict=True)))


def _records(stream: BufferedReader, faults: Faults, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that can be parsed, and the number of its first line."""
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, lines.size = lines.number + 1, 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_TooLarge, csv.Error) as error:
            reason = str(error) or TOO_LARGE
            if lines.number > number and (isinstance(error, _TooLarge) or "end of data" in reason):
                hint = "close it; a quote that is part of a text is written twice, in quotes"
                raise faults.fatal(number, f"{reason}: a quote is opened here and not closed", hint) from error
            faults.found(number, reason)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        else:
            if cells:
                yield number, cells


def _header(number: int, cells: list[str], faults: Faults) -> list[str]:
    if reason := _wrong(cells, cells):
        raise faults.fatal(number, reason, _HINT)
    if twice := [name for name, times in Counter(cells).items() if times > 1]:
        raise faults.fatal(number, f"the column {twice[0]!r:.80} is there twice", _HINT)
    return cells


def _wrong(cells: Sequence[str], names: Sequence[str]) -> str:
    """What is wrong with the cells of a row; "" for nothing."""
    if len(cells) != len(names):
        return f"{len(cells):,} cells, where the first row has {len(names):,}"
    if any(_UNDECODED.search(cell) for cell in cells):
        return "not UTF-8: save the file as UTF-8"
    return "holds a NUL character" if any("\0" in cell for cell in cells) else ""

"""Rows that are JSON objects: one a line, or the elements of one array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader

import ijson

from hybrid.canonical import MAX_DEPTH, MAX_RECORD, Json, decode, is_deep
from hybrid.errors import BadData, keys_of
from hybrid.machine.bounded_stream import PIECE, BoundedStream
from hybrid.rows.row import TOO_LARGE, Faults, Row

LONGEST = MAX_RECORD + 2
"""Bytes of a line with its end."""
HINT = "a file of rows is an array of JSON objects, or has one JSON object a line"


def document_rows(stream: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of a `.json`: of an array, or of JSON lines, which many tools give that name."""
    begins = stream.peek(PIECE)[:PIECE].lstrip()[:1]
    if begins == b"[":
        return array_rows(stream, faults)
    if begins in (b"{", b""):
        return line_rows(stream, replace(faults, unit="line"))
    raise faults.fatal(1, "neither an array of JSON objects nor an object", HINT)


def line_rows(stream: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of JSON lines. Empty lines are passed over."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            faults.found(number, TOO_LARGE)
            skip_line(stream, line)
        elif body := line.strip():
            try:
                value = decode(body, what="")
            except BadData as error:
                faults.found(number, error.message.removeprefix(": "))
            else:
                yield from _checked(number, value, faults)


def array_rows(stream: BufferedReader, faults: Faults) -> Iterator[Row]:
    """The rows of one array of objects. What is no JSON ends it, whatever `faults` says: nothing behind it is known."""
    source = BoundedStream(stream, str(faults.path), HINT)
    number = 0
    try:
        for number, value in enumerate(ijson.items(source, "item", use_float=True, buf_size=PIECE), start=1):
            source.start = source.position
            if is_deep(value):
                faults.found(number, f"nested more than {MAX_DEPTH} levels deep")
            else:
                yield from _checked(number, value, faults)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        said = error.args[0] if error.args else ""
        text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said)
        raise faults.fatal(number + 1, f"not valid JSON: {text.partition(chr(10))[0]:.100}", HINT) from error


def _checked(number: int, value: Json, faults: Faults) -> Iterator[Row]:
    if isinstance(value, dict):
        yield faults.row(number, value)
    else:
        faults.found(number, f"not a JSON object: {keys_of(value)}")


def skip_line(stream: BufferedReader, begun: bytes) -> None:
    """Read on to the end of the line of which `begun` was read."""
    while begun and not begun.endswith(b"\n"):
        begun = stream.readline(PIECE)

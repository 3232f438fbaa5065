"""Rows of JSON lines and of JSON arrays, decoded only when they become records."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import LARGEST, BadRow, Found
from hybrid.outputs.source import OutputsSource

PIECE = 1024 * 1024


def json_rows(source: OutputsSource) -> Iterator[Found]:
    """The lines of JSON lines as bytes, the elements of an array as values. Empty lines are passed over."""
    with source.open() as stream:
        begins = stream.peek(1)[:1]
        if begins == b"[":
            document = JsonStream(stream, source.name)
            for number, value in enumerate(document.elements(), start=1):
                yield Found(f"row {number:,}", value)
            document.end()
            return
        number = 0
        while line := stream.readline(LARGEST + 1):
            number += 1
            if len(line) > LARGEST:
                yield Found(f"line {number:,}", BadRow(f"more than the {LARGEST:,} bytes allowed in one line"))
                while line and not line.endswith(b"\n"):
                    line = stream.readline(PIECE)
            elif body := line.strip():
                yield Found(f"line {number:,}", body)

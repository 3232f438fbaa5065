"""A stream for parsers that build whole values of it: it bounds the bytes of one value."""

from __future__ import annotations

from typing import BinaryIO

from hybrid.canonical import MAX_RECORD
from hybrid.errors import BadData

PIECE = 64 * 1024
"""Bytes that a parser reads at once."""


class BoundedStream:
    """Counts bytes and lines, and raises BadData, with `hint`, for a value that is larger than MAX_RECORD bytes."""

    def __init__(self, stream: BinaryIO, name: str, hint: str) -> None:
        self._stream, self._name, self._hint = stream, name, hint
        self.position = 0
        self.start = 0  # of the value that is being read
        self.line = 1

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        if self.position - self.start > MAX_RECORD + 2 * PIECE:
            raise BadData(
                f"{self._name}, near line {self.line}: more than the {MAX_RECORD:,} bytes allowed in one value",
                hint=self._hint,
            )
        data = self._stream.read(PIECE if size < 0 else size)
        self.position += len(data)
        self.line += data.count(b"\n")
        return data

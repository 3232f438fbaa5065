"""Text files as editors and shells save them: UTF-8, with or without a byte order mark (BOM), or UTF-16 with a BOM.

Windows PowerShell's `>` writes UTF-16, and some editors put a BOM before UTF-8; a JSON parser accepts neither. Our own
files are UTF-8 without a BOM.
"""

from __future__ import annotations

import codecs
import io
from pathlib import Path
from typing import BinaryIO, cast

from hybrid.errors import BadData, CannotRun, UsageError

PIECE = 64 * 1024
HINT = "save it as UTF-8"

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, ""),  # before UTF-16, whose BOM is its beginning
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order mark -> the codec that reads the text; "" when the encoding is refused."""


def utf8(data: bytes, what: str) -> bytes:
    """The text in `data` as UTF-8 without a BOM; `what` names the file. Raises BadData for another encoding."""
    if _codec(data[:4], what):
        return utf8_stream(io.BytesIO(data), what).read()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadData(f"{what}: not UTF-8: byte {data[error.start]:#04x} at {error.start:,}", hint=HINT) from error
    return data


def read_text_file(path: Path, limit: int, hint: str) -> bytes:
    """The bytes of a file of texts that the user named, at most `limit`; a link is followed. `hint` says what to name.

    Raises UsageError for what is no file, CannotRun for one that cannot be read, BadData for a larger one.
    """
    try:
        if not path.is_file():
            raise UsageError(f"{path}: not a file", hint=hint)
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be read: {error.strerror}", hint=hint) from error
    if len(data) > limit:
        raise BadData(f"{path}: more than the {limit:,} bytes allowed")
    return data


def utf8_stream(stream: BinaryIO, what: str) -> io.BufferedReader:
    """Like `utf8`, for an open file that is read in pieces; closing the result closes `stream`."""
    opened = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", stream))
    try:
        codec = _codec(opened.peek(4)[:4], what)
    except BaseException:
        opened.close()
        raise
    return io.BufferedReader(_Recoding(opened, codec, what), PIECE) if codec else opened


def _codec(begin: bytes, what: str) -> str:
    for mark, codec in MARKS:
        if begin.startswith(mark):
            if codec:
                return codec
            raise BadData(f"{what}: a text in UTF-32", hint=HINT)
    if begin and not begin.strip(b"\0"):
        raise BadData(f"{what}: begins with zeros: a crash or a sync program left it so", hint="make or fetch it anew")
    if b"\0" in begin[:2]:  # every text that is read here begins with ASCII
        raise BadData(f"{what}: looks like UTF-16 without a byte order mark, or is no text", hint=HINT)
    return ""


class _Recoding(io.RawIOBase):
    """A stream that reads the text of another stream as UTF-8."""

    def __init__(self, stream: BinaryIO, codec: str, what: str) -> None:
        self._stream, self._what = stream, what
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            piece = self._stream.read(PIECE)
            self._ended = not piece
            self._ready = self._decoded(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _decoded(self, piece: bytes) -> bytes:
        try:
            return self._decoder.decode(piece, final=not piece).encode()
        except UnicodeError as error:
            raise BadData(
                f"{self._what}: ends in the middle of a character, or is not in the encoding of its mark", hint=HINT
            ) from error

"""Text files that may be packed with zstd: read as UTF-8 without a byte order mark, in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import zstandard

from hybrid.errors import BadData
from hybrid.machine.files import explain_errors
from hybrid.machine.text_files import utf8_stream

BUFFER = 32 * 1024
"""Bytes that are read and decoded at once: few enough that the decoded records fit into the processor's cache."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def opened_text(path: Path) -> io.BufferedReader:
    """The text of the file at `path`, from its start. Raises HybridError when it cannot be opened or is no text."""
    with explain_errors(path, doing="opening it"):
        stream: io.BufferedReader = io.BufferedReader(path.open("rb", buffering=0), BUFFER)
    return plain_text(stream, str(path))


def plain_text(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    """`stream` decompressed, as UTF-8 without a byte order mark."""
    return utf8_stream(_unpacked(stream, name), name)


def _unpacked(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    """`stream`, decompressed when it begins with zstd's magic number."""
    packed = stream.peek(4)[:4] == ZSTD_MAGIC
    return io.BufferedReader(_ZstdReader(stream, name), BUFFER) if packed else stream


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd piece by piece. Raises BadData for a truncated frame, which zstandard's own reader ignores."""

    PIECE = 1024  # packed bytes at a time: four of them unpack to 128 KiB at most, so memory stays bounded

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            piece = self._frame.unused_data or self._stream.read(self.PIECE)
            if not piece:
                return self._end()
            self._ready = memoryview(self._unpack(piece))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self, piece: bytes) -> bytes:
        if self._frame.eof:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._inside = True
        try:
            return self._frame.decompress(piece)
        except zstandard.ZstdError as error:
            raise BadData(f"{self._name}: damaged zstd data: {error}", hint="copy the file again") from error

    def _end(self) -> int:
        if self._inside and not self._frame.eof:
            raise BadData(
                f"{self._name}: the zstd data ends early", hint="wait for the sync to finish, or copy the file again"
            )
        return 0

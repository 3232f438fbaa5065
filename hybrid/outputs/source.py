"""Sources of outputs: a file, a zstd file or standard input; each can be opened again from its start."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from hybrid.errors import BadData, UsageError
from hybrid.machine.files import explain_errors
from hybrid.machine.text_files import utf8_stream

BUFFER = 32 * 1024
"""Bytes that are read and decoded at once: few enough that the decoded records fit into the processor's cache."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class OutputsSource:
    """`name` is for messages, `open` gives the plain bytes from the start, `close` gives up a temporary copy.

    `lines` says that they are JSON lines, as the file's name tells.
    """

    name: str
    path: Path
    open: Callable[[], io.BufferedReader]
    lines: bool
    close: Callable[[], None] = lambda: None


def open_source(path: Path | str) -> OutputsSource:
    """The source at `path`; `-` is standard input, copied to a temporary file so that it can be read again."""
    if str(path) == "-":
        copy = _copy_of_input()
        return OutputsSource(
            "standard input", Path("-"), lambda: _plain(_reopened(copy), "standard input"), False, copy.close
        )
    file = Path(path)
    if not file.is_file():
        raise UsageError(
            f"there is no file {file}", hint="name an outputs.json, a .jsonl, a .jsonl.zst, or - for standard input"
        )
    lines = file.name.removesuffix(".zst").endswith(".jsonl")
    return OutputsSource(str(file), file, lambda: _plain(_opened(file), str(file)), lines)


def _opened(path: Path) -> io.BufferedReader:
    with explain_errors(path, doing="opening it"):
        return io.BufferedReader(path.open("rb", buffering=0), BUFFER)


def _copy_of_input() -> BinaryIO:
    copy = cast("BinaryIO", tempfile.TemporaryFile(buffering=BUFFER))  # noqa: SIM115 - closed with its source
    with explain_errors(Path(tempfile.gettempdir()), doing="copying standard input there"):
        shutil.copyfileobj(sys.stdin.buffer, copy, BUFFER)
        copy.flush()
    return copy


def _reopened(copy: BinaryIO) -> io.BufferedReader:
    """The temporary file from its start; closing the returned stream leaves the file open."""
    copy.seek(0)
    return io.BufferedReader(_KeptOpen(copy), BUFFER)


class _KeptOpen(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _plain(stream: io.BufferedReader, name: str) -> io.BufferedReader:
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

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

from hybrid.errors import UsageError
from hybrid.machine.files import explain_errors
from hybrid.machine.packed_texts import BUFFER, opened_text, plain_text


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
            "standard input", Path("-"), lambda: plain_text(_reopened(copy), "standard input"), False, copy.close
        )
    file = Path(path)
    if not file.is_file():
        raise UsageError(
            f"there is no file {file}", hint="name an outputs.json, a .jsonl, a .jsonl.zst, or - for standard input"
        )
    lines = file.name.removesuffix(".zst").endswith(".jsonl")
    return OutputsSource(str(file), file, lambda: opened_text(file), lines)


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

"""Find grades of outputs that have changed since, by the digests in both files, without reading either whole."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from hybrid.outputs.file import grades_beside

TAIL = 1024
"""Bytes at the end of an outputs file that contain its digest."""
HEAD = 256 * 1024
"""Bytes at the beginning of a grades file that contain the digest of the graded outputs."""
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"\}\s*\Z')
GRADED = re.compile(rb'^"outputs":\{"run":.{0,2000}"sha256":"([0-9a-f]{64})"\},$', re.MULTILINE)


def is_stale(grades: Path, outputs: Path) -> bool:
    """Whether a grades file is about other outputs than `outputs` holds now; False when either has no digest."""
    now, then = _outputs_digest(outputs), _graded_digest(grades)
    return bool(now and then and now != then)


def stale_words(outputs: Path) -> list[str]:
    """A message for each grades file beside `outputs` that is about its former content."""
    return [stale_message(one, outputs) for one in _stale(outputs)]


def stale_message(grades: Path, outputs: Path) -> str:
    """What is to be said of a grades file about the former content of `outputs`."""
    return f"{grades} judges other outputs than {outputs.name} holds now: grade again"


def _stale(outputs: Path) -> list[Path]:
    with suppress(OSError):
        return [one for one in grades_beside(outputs).values() if is_stale(one, outputs)]
    return []


def _outputs_digest(outputs: Path) -> bytes:
    return _found(DIGEST, outputs, TAIL, from_end=True)


def _graded_digest(grades: Path) -> bytes:
    return _found(GRADED, grades, HEAD)


def _found(pattern: re.Pattern[bytes], path: Path, length: int, *, from_end: bool = False) -> bytes:
    """The first group of `pattern` in the first or last `length` bytes of a file; b"" for what has none."""
    with suppress(OSError):
        if not path.is_file():  # a pipe would be waited for
            return b""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length) if from_end else 0)
            match = pattern.search(file.read(length))
            return match[1] if match else b""
    return b""

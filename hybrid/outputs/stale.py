"""Find grades of outputs that have changed since, by the digests in both files, without reading either whole."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from hybrid.outputs.file import grades_of

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
    return [f"{one} judges other outputs than {outputs.name} holds now: grade again" for one in _stale(outputs)]


def _stale(outputs: Path) -> list[Path]:
    before, after = grades_of(outputs, "*").name.split("*")
    found: list[Path] = []
    with suppress(OSError):
        found = [one for one in sorted(outputs.parent.iterdir()) if one.name.startswith(before)]
    return [one for one in found if one.name.endswith(after) and is_stale(one, outputs)]


def _outputs_digest(outputs: Path) -> bytes:
    with suppress(OSError), outputs.open("rb") as file:
        file.seek(max(0, outputs.stat().st_size - TAIL))
        match = DIGEST.search(file.read(TAIL))
        return match[1] if match else b""
    return b""


def _graded_digest(grades: Path) -> bytes:
    with suppress(OSError), grades.open("rb") as file:
        match = GRADED.search(file.read(HEAD))
        return match[1] if match else b""
    return b""

"""Grades of outputs that have changed since. Told by the digests that both files name, without reading either whole."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from hybrid.outputs.file import grades_of

TAIL = 1024
"""Bytes at the end of an outputs file, in which its digest stands as it is written here."""
HEAD = 256 * 1024
"""Bytes at the beginning of a grades file, in which stands what it judges."""
DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"\}\s*\Z')
JUDGED = re.compile(rb'^"outputs":\{"run":.{0,2000}"sha256":"([0-9a-f]{64})"\},$', re.MULTILINE)


def is_stale(grades: Path, outputs: Path) -> bool:
    """Whether a grades file judges other outputs than `outputs` holds now; not where one of them does not tell."""
    now, then = _digest(outputs), _judged(grades)
    return bool(now and then and now != then)


def stale_words(outputs: Path) -> list[str]:
    """What is said of the grades beside an outputs file that judge what it held before."""
    return [f"{one} judges other outputs than {outputs.name} holds now: grade again" for one in _stale(outputs)]


def _stale(outputs: Path) -> list[Path]:
    before, after = grades_of(outputs, "*").name.split("*")
    found: list[Path] = []
    with suppress(OSError):
        found = [one for one in sorted(outputs.parent.iterdir()) if one.name.startswith(before)]
    return [one for one in found if one.name.endswith(after) and is_stale(one, outputs)]


def _digest(outputs: Path) -> bytes:
    with suppress(OSError), outputs.open("rb") as file:
        file.seek(max(0, outputs.stat().st_size - TAIL))
        match = DIGEST.search(file.read(TAIL))
        return match[1] if match else b""
    return b""


def _judged(grades: Path) -> bytes:
    with suppress(OSError), grades.open("rb") as file:
        match = JUDGED.search(file.read(HEAD))
        return match[1] if match else b""
    return b""

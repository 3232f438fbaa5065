"""The scores of an outputs file from the grades beside it, without reading either of them whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hybrid.canonical import Json
from hybrid.outputs import grades_beside, is_stale

TAIL = 1024 * 1024
"""Bytes at the end of a grades file that contain its summary."""
SUMMARY = re.compile(rb'^"summary":(\{.*\}),$', re.MULTILINE)
GRADER = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


@dataclass(frozen=True, slots=True)
class Score:
    """What one grader said of a run. `score` is None where nothing could be graded; `stale` are grades of other
    outputs than are there now.
    """

    grader: str
    path: Path
    score: float | None
    interval: tuple[float, float] | None
    n: int
    unit: str
    stale: bool

    def to_json(self) -> dict[str, Json]:
        interval: Json = list(self.interval) if self.interval else None
        found: dict[str, Json] = {name: getattr(self, name) for name in ("grader", "score", "n", "unit", "stale")}
        return {**found, "interval": interval, "path": str(self.path)}


def scores_of(outputs: Path) -> list[Score]:
    """The scores of the grades beside an outputs file, by grader; a file that is no whole grades file is left out."""
    with suppress(OSError):
        return [found for grader, path in grades_beside(outputs).items() for found in _score(path, grader, outputs)]
    return []


def _score(path: Path, grader: str, outputs: Path) -> Iterator[Score]:
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        if GRADER.fullmatch(grader):
            summary = _summary(path)
            interval = summary["interval"]
            yield Score(
                grader,
                path,
                None if summary["score"] is None else float(summary["score"]),
                (float(interval[0]), float(interval[1])) if interval else None,
                int(summary["n"]),
                str(summary["unit"])[:20],
                is_stale(path, outputs),
            )


def _summary(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        found: dict[str, Any] = orjson.loads(SUMMARY.findall(file.read(TAIL))[-1])
    return found

"""Reads grades.json as a stream: header and summary, then one grade at a time, in any JSON layout.

The content is validated before it is shown: scores and intervals are finite and in range, counts are integers, and the
digest in the file is the digest of its grades.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ijson

from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError, keys_of
from hybrid.grading.calibration import sentences
from hybrid.machine.text_files import utf8_stream
from hybrid.metrics import Measured

FORMAT = "hybrid/grades"
VERSION = 1
BEGINS = b'{"format":"hybrid/grades"'
"""The first bytes of a grades file that hybrid wrote."""

NEEDED = frozenset({"task", "question", "score"})
MAX_MEASURES = 2000
"""Most figures over all outputs that are read."""

AGAIN = "grade the outputs again"


@dataclass(frozen=True, slots=True)
class GradeRow:
    """The grade of one question in grades.json. `outputs` is the number of outputs that were graded; `due` is False
    where no score was to be expected.
    """

    task: str
    question: str
    score: float | None
    reason: str
    figures: Mapping[str, float]
    detail: Mapping[str, Any]
    outputs: int
    controls: Mapping[str, float] = field(default_factory=dict)
    due: bool = True


@dataclass(frozen=True, slots=True)
class GradesFile:
    """The header of a grades file. `outputs` is the digest of the graded outputs file."""

    path: Path
    grader: str
    settings: Mapping[str, Any]
    outputs: str
    sha256: str
    summary: Mapping[str, Any]
    count: int
    around: tuple[bytes, bytes]  # the bytes that the digest covers before and after the grades

    def grades(self) -> Iterator[GradeRow]:
        """Yield the grades in file order. Raises BadData at the first invalid one."""
        for number, value in enumerate(self._values(), start=1):
            yield _row(value, f"{self.path}: grade {number}")

    def checked(self) -> Iterator[GradeRow]:
        """Like `grades`, and verify count and sha256 at the end. Raises BadData."""
        hashed, number = hashlib.sha256(self.around[0]), 0
        for number, value in enumerate(self._values(), start=1):
            hashed.update(encode(value) + b"\n")
            yield _row(value, f"{self.path}: grade {number}")
        if number != self.count:
            raise BadData(f"{self.path}: has {number:,} grades but states {self.count:,}", hint=AGAIN)
        hashed.update(self.around[1])
        if hashed.hexdigest() != self.sha256:
            raise BadData(f"{self.path}: its content does not match its sha256: edited or damaged", hint=AGAIN)

    def _values(self) -> Iterator[Any]:
        with utf8_stream(self.path.open("rb"), str(self.path)) as file:
            yield from _items(self.path, file, "grades.item")


def open_grades(path: Path) -> GradesFile:
    """Read the header. Raises UsageError when the file does not exist, BadData when it is not a grades file."""
    form = _value(path, "format")
    if form != FORMAT:
        raise BadData(f"{path}: not a grades file (format is {form!r})", hint="name an outputs.json or a grades.json")
    if (version := _value(path, "version")) != VERSION:
        raise BadData(f"{path}: grades of version {version!r}, this program reads {VERSION}", hint="update hybrid")
    grader, outputs, summary = _value(path, "grader"), _value(path, "outputs"), _value(path, "summary")
    try:
        return GradesFile(
            path=path,
            grader=str(grader["name"]),
            settings=dict(grader.get("settings") or {}),
            outputs=str(outputs["sha256"]),
            sha256=str(_value(path, "sha256")),
            summary=_summary(summary),
            count=int(_value(path, "count")),
            around=(encode(grader) + b"\n", encode(outputs) + b"\n" + encode(summary) + b"\n"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise BadData(f"{path}: not a whole grades file: {error}", hint=AGAIN) from error


def has_scores(summary: Mapping[str, Any]) -> bool:
    """Whether anything has a score or was measured: an arm, where the first one has no score."""
    arms = [summary["controls"].get(name) for name in summary.get("arms") or ()]
    return bool(summary["n"] or summary.get("measures") or any(one and one["n"] for one in arms))


def _value(path: Path, key: str) -> Any:
    """The value of one key of the outermost object; the others are not held in memory."""
    try:
        with utf8_stream(path.open("rb"), str(path)) as file:
            return next(_items(path, file, key), None)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}", hint="hybrid grade makes it from an outputs.json") from error


def _items(path: Path, file: Any, prefix: str) -> Iterator[Any]:
    try:
        yield from ijson.items(file, prefix, use_float=True)
    except (ijson.JSONError, UnicodeDecodeError, ValueError) as error:
        raise BadData(f"{path}: not valid JSON: {error}", hint="copy it again, or grade the outputs again") from error


def _row(value: Any, what: str) -> GradeRow:
    if not isinstance(value, dict) or not value.keys() >= NEEDED:
        raise BadData(f"{what}: not a grade: {keys_of(value)}; needed are {', '.join(sorted(NEEDED))}", hint=AGAIN)
    try:
        return GradeRow(
            task=str(value["task"]),
            question=str(value["question"]),
            score=_share(value["score"]),
            reason=str(value.get("reason") or ""),
            figures={str(name): _number(figure) for name, figure in (value.get("figures") or {}).items()},
            detail=dict(value.get("detail") or {}),
            outputs=int(value.get("outputs", 0)),
            controls={str(name): _number(score) for name, score in (value.get("controls") or {}).items()},
            due=value.get("due") is not False,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise BadData(f"{what}: not a grade: {error}", hint=AGAIN) from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _share(value: Any) -> float | None:
    """A score: None, or a number in [0, 1]."""
    if value is None:
        return None
    number = _number(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{number!r} is not a score in [0, 1]")
    return number


def _interval(value: Any) -> tuple[float, float] | None:
    return None if value is None else (_number(value[0]), _number(value[1]))


def _measure(value: Any, key: str) -> dict[str, Any]:
    mean = value[key]
    return {
        "mean": None if mean is None else _number(mean),
        "n": int(value["n"]),
        "interval": _interval(value["interval"]),
    }


def _summary(value: Any) -> dict[str, Any]:
    """The validated summary; figures and controls have one shape (`mean`, `n`, `interval`)."""
    ungraded = value["ungraded"]
    return {
        "unit": str(value["unit"]),
        "n": int(value["n"]),
        "score": _share(value["score"]),
        "interval": _interval(value["interval"]),
        "method": str(value.get("method", "")),
        "ungraded": int(ungraded["count"]),
        "reasons": _counts(ungraded.get("reasons")),
        "not_due": _counts((value.get("not_due") or {}).get("reasons")),
        "ungraded_outputs": _counts((value.get("ungraded_outputs") or {}).get("reasons")),
        "questions": int(value["questions"]),
        "outputs": int(value["outputs"]),
        "failed": _counts(value.get("failed_outputs")),
        "judge": sentences(value.get("judge")),
        "arms": [str(name) for name in value.get("arms") or []],
        "measures": [_measured(one) for one in (value.get("measures") or [])[:MAX_MEASURES]],
        "figures": {
            str(name): _measure(figure, "mean") for name, figure in sorted((value.get("figures") or {}).items())
        },
        "controls": {
            str(name): _measure(control, "score") for name, control in sorted((value.get("controls") or {}).items())
        },
    }


def _measured(value: Any) -> Measured:
    """One validated figure over all outputs."""
    low_high, control = _interval(value.get("interval")), value.get("control")
    return Measured(
        group=str(value["group"]),
        name=str(value["name"]),
        value=_number(value["value"]),
        n=int(value["n"]),
        interval=low_high,
        control=None if control is None else _number(control),
        control_interval=_interval(value.get("control_interval")),
        against=str(value.get("against") or ""),
        better=str(value.get("better") or ""),
    )


def _counts(value: Any) -> dict[str, int]:
    return {str(name): int(number) for name, number in sorted((value or {}).items())}

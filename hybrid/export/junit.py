"""Grades as JUnit XML, which CI systems draw: one test case for each unit of the score."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

from hybrid.export.graded_run import GradedRun
from hybrid.export.table import text_of
from hybrid.machine import home
from hybrid.machine.replacing import replacing
from hybrid.machine.terminal import clean, count_of
from hybrid.records import Question
from hybrid.report.grades_file import GradeRow

BEGINS = b'<?xml version="1.0" encoding="utf-8"?>\n<testsuites><testsuite '
"""How every such file begins."""
ROOM = 4096
"""Bytes kept for the head, whose counts are known last; a name in it is cut."""
LONGEST, LONGEST_NAME = 2000, 200
REST = 3
"""Outputs of a unit whose text is shown."""
FORBIDDEN = re.compile("[\ufffe\uffff\ud800-\udfff]")
"""Characters that XML cannot hold beside the controls, which `clean` escapes."""


@dataclass(slots=True)
class _Case:
    """A unit: its score, and what to say of it."""

    task: str
    name: str
    score: float | None = None
    reasons: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)


def write_junit(run: GradedRun, path: Path, threshold: float | None = None) -> None:
    """Write the grades of `run` to `path`, as a stream; the same grades give the same bytes.

    A unit fails with a score below `threshold`, by default below 1. One without a score is an error where its outputs
    failed, and skipped, with the reason, where it is ungraded. Raises UsageError for a file that is something else.
    """
    counts: Counter[str] = Counter()
    with replacing(path, BEGINS, home.parts_folder()) as stream:
        stream.write(b" " * ROOM + b"\n")
        for case in _cases(run):
            kind, element = _outcome(case, 1.0 if threshold is None else threshold)
            counts[kind] += 1
            _write_case(stream, case, element)
        stream.write(b"</testsuite></testsuites>\n")
        stream.seek(0)
        stream.write(_head(run, counts).ljust(ROOM))
        stream.seek(0, 2)


def _cases(run: GradedRun) -> Iterator[_Case]:
    """The units: questions, or tasks with the lowest score of their questions."""
    by_task = run.summary.get("unit") == "task"
    for task, rows in groupby(run.questions(), key=lambda row: row[1].task):
        if not by_task:
            yield from (_merged(run, task, question.id, [(grade, question)]) for grade, question in rows)
        else:
            yield _merged(run, task, task, rows)


def _merged(
    run: GradedRun,
    task: str,
    name: str,
    rows: Iterator[tuple[GradeRow | None, Question]] | list[tuple[GradeRow | None, Question]],
) -> _Case:
    case, scores = _Case(task, name), []
    for grade, question in rows:
        outputs = run.arms(grade, question)[0][1]  # the score is that of the first arm
        score = grade.score if grade else None
        scores.append(score)
        if score is None:
            case.reasons.append(f"{question.id}: {grade.reason if grade else 'not graded'}")
            case.failed.update(one.error.kind for one in outputs if one.error)
        texts = [one.text for one in outputs if one.text is not None]
        if score != 1.0 and len(case.texts) < REST:
            case.texts += [_shown(question, text) for text in texts[:REST]]
    graded = [score for score in scores if score is not None]
    case.score = min(graded) if len(graded) == len(scores) and graded else None
    return case


def _shown(question: Question, text: str) -> str:
    reference = "" if question.reference is None else text_of(question.reference)
    return f"{question.id}\nreference: {reference[:LONGEST]}\nanswer: {text[:LONGEST]}"


def _outcome(case: _Case, threshold: float) -> tuple[str, str]:
    """The kind of a case for the counts, and its element; "" for one that passed."""
    if case.score is None:
        reason = _attribute("; ".join(case.reasons))
        if case.failed:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(case.failed.items()))
            what = _attribute(f"{count_of(case.failed.total(), 'output')} failed ({kinds})")
            return "errors", f'<error type="failed output" message={what}>{_text("; ".join(case.reasons))}</error>'
        return "skipped", f"<skipped message={reason}/>"
    if case.score >= threshold:
        return "passed", ""
    said = _attribute(f"score {case.score:.4f}, needed are {threshold:g}")
    return "failures", f'<failure type="score" message={said}>{_text(chr(10).join(case.texts))}</failure>'


def _write_case(stream: BinaryIO, case: _Case, element: str) -> None:
    names = f"classname={_attribute(case.task)} name={_attribute(case.name)}"
    stream.write(f"<testcase {names}>{element}</testcase>\n".encode() if element else f"<testcase {names}/>\n".encode())


def _head(run: GradedRun, counts: Counter[str]) -> bytes:
    kinds = " ".join(f'{kind}="{counts[kind]}"' for kind in ("failures", "errors", "skipped"))
    name = _attribute(f"{run.id} {run.grader}")
    return BEGINS + f'name={name} tests="{counts.total()}" {kinds}>'.encode()


def _attribute(text: str) -> str:
    return quoteattr(_legal(text, LONGEST_NAME))


def _text(text: str) -> str:
    return escape(_legal(text, LONGEST))


def _legal(text: str, limit: int) -> str:
    """The text with what XML cannot hold, and what a terminal would obey, escaped, cut to `limit` characters."""
    return FORBIDDEN.sub("\ufffd", clean(text, limit))

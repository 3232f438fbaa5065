"""The submission file of the ARC prizes: two attempts for each test input, as the grader chose them by vote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any, BinaryIO

from hybrid.canonical import encode
from hybrid.errors import BadData, UsageError
from hybrid.export.graded_run import GradedRun
from hybrid.machine.terminal import count_of, has_or_have
from hybrid.records import Question
from hybrid.report.grades_file import GradeRow

NUMBER = re.compile(r"[0-9]{1,4}")
LARGEST, COLOURS = 30, range(10)
NO_ATTEMPT = [[0, 0], [0, 0]]
"""What the prizes' own sample submission has; they take no file that leaves a test input out."""

Grid = list[list[int]]


def write_submission(run: GradedRun, stream: BinaryIO) -> list[str]:
    """One JSON object: task -> for each test input `attempt_1` and `attempt_2`, in the order of the task.

    Raises UsageError for grades without attempts and for what is no ARC task, BadData for attempts that are no grids.
    """
    if not run.grader:
        raise UsageError(
            f"{run.outputs.path}: not graded, and the attempts are the grader's choice by vote",
            hint=f"hybrid grade {run.outputs.path} --grader arc",
        )
    found = empty = 0
    stream.write(b"{")
    for number, (task, rows) in enumerate(groupby(run.questions(), key=lambda row: row[1].task)):
        attempts = {_place(question): _attempts(run, grade) for grade, question in rows}
        answers = [attempts.get(place) for place in range(_inputs(run.outputs.tasks.get(task), attempts))]
        found += sum(one is not None for one in answers)
        empty += sum(one is None for one in answers)
        pairs = [_pair(one) for one in answers]
        stream.write((b",\n" if number else b"\n") + encode(task) + b":" + encode(pairs))
    stream.write(b"\n}\n")
    if not found:
        raise UsageError(
            f"the grades of '{run.grader}' have no attempts", hint=f"hybrid grade {run.outputs.path} --grader arc"
        )
    return [f"{count_of(empty, 'test input')} {has_or_have(empty)} no attempt: 2x2 zeros stand there"] * (empty > 0)


def _place(question: Question) -> int:
    """The number of the test input in its task."""
    number = question.id.removeprefix(f"{question.task}/")
    if not NUMBER.fullmatch(number):
        raise UsageError(
            f"the question {question.id!r:.200} is no test input of an ARC task: TASK/NUMBER is needed",
            hint="a submission is made of outputs of ARC tasks",
        )
    return int(number)


def _inputs(task: Any, attempts: Mapping[int, Any]) -> int:
    """The number of test inputs of a task: as its data says, and at least those that were asked."""
    tests = task.get("test") if isinstance(task, dict) else None
    return max(len(tests) if isinstance(tests, list) else 0, *(place + 1 for place in attempts))


def _attempts(run: GradedRun, grade: GradeRow | None) -> list[Grid] | None:
    """The grader's attempts; None where it has none. Raises BadData for what is no grid."""
    attempts = grade.detail.get("attempts") if grade else None
    if not isinstance(attempts, list) or not attempts:
        return None
    for grid in attempts[:2]:
        if not _is_grid(grid):
            raise BadData(f"{run.id}: an attempt at {grade.question if grade else ''!r:.200} is no grid")
    return attempts[:2]


def _pair(attempts: list[Grid] | None) -> dict[str, Grid]:
    first, *second = attempts or [NO_ATTEMPT]
    return {"attempt_1": first, "attempt_2": second[0] if second else first}


def _is_grid(grid: Any) -> bool:
    """Whether it is 1 to 30 rows of one length, 1 to 30, of the ten colours."""
    if not isinstance(grid, list) or not 1 <= len(grid) <= LARGEST:
        return False
    if not all(isinstance(row, list) and 1 <= len(row) <= LARGEST and len(row) == len(grid[0]) for row in grid):
        return False
    return all(type(cell) is int and cell in COLOURS for row in grid for cell in row)

"""One row an output, flat columns: what CSV, Parquet and a data frame hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from hybrid.canonical import Json, encode
from hybrid.export.graded_run import GradedOutput, GradedRun

Cell = str | int | float | None
Kind = Literal["text", "whole", "number"]

COLUMNS: Mapping[str, Kind] = {
    "run": "text",
    "task": "text",
    "question": "text",
    "key": "text",
    "sample": "whole",
    "view": "text",
    "text": "text",
    "thought": "text",
    "error": "text",
    "error_message": "text",
    "finish": "text",
    "prompt_tokens": "whole",
    "completion_tokens": "whole",
    "reference": "text",
    "grader": "text",
    "score": "number",
    "reason": "text",
}
"""The columns that every table has, in order; then comes `figure.NAME` for each figure of the grader."""


def columns_of(run: GradedRun) -> dict[str, Kind]:
    """The names of a run's columns, with what they hold."""
    return {**COLUMNS, **{f"figure.{name}": "number" for name in run.summary.get("figures", {})}}


def cells_of(run: GradedRun, row: GradedOutput) -> list[Cell]:
    """The row of an output, in the order of `columns_of`. None is what is missing: no text, no score, no figure."""
    output, grade = row.output, row.grade
    figures: Mapping[str, float] = grade.figures if grade else {}
    return [
        run.id,
        output.task,
        output.question,
        output.key,
        output.sample,
        text_of(output.view),
        output.text,
        output.thought or None,
        output.error.kind if output.error else None,
        output.error.message if output.error else None,
        output.finish,
        *output.tokens,
        None if output.reference is None else text_of(output.reference),
        run.grader or None,
        grade.score if grade else None,
        (grade.reason or None) if grade else None,
        *(figures.get(name) for name in run.summary.get("figures", {})),
    ]


def text_of(value: Json) -> str:
    """A text as it is, any other value as canonical JSON."""
    return value if isinstance(value, str) else encode(value).decode()

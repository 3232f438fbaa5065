"""Records as JSON lines, and as CSV in which no cell is a formula."""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

from hybrid.canonical import Json, encode
from hybrid.export.graded_run import GradedOutput, GradedRun
from hybrid.export.table import Cell, cells_of, columns_of

FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""First characters of cells that get a `'` before them. A spreadsheet computes what begins with the first six; the last
is marked so that a reader gets every text back when it takes one `'` away."""


def write_jsonl(run: GradedRun, stream: BinaryIO) -> list[str]:
    """One line an output: its record as in outputs.json, `run`, and `grade`, which is null in a run without grades.

    `hybrid grade` reads such a file again.
    """
    stream.writelines(encode({**row.output.to_json(), "run": run.id, "grade": _grade(run, row)}) + b"\n" for row in run)
    return []


def _grade(run: GradedRun, row: GradedOutput) -> Json:
    if row.grade is None:
        return None
    grade = row.grade
    about = {"score": grade.score, "reason": grade.reason, "figures": grade.figures, "detail": grade.detail}
    return {"grader": run.grader, **about}


def write_csv(run: GradedRun, stream: BinaryIO) -> list[str]:
    """A header, then one row an output, in UTF-8, as RFC 4180 has it; what is missing is an empty cell."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow([guarded(name) for name in columns_of(run)])
    marked = changed = 0
    for row in run:
        cells = cells_of(run, row)
        shown = [guarded(cell) for cell in cells]
        marked += shown != cells
        held = [without_nul(cell) for cell in shown]
        changed += held != shown
        table.writerow(held)
    text.detach()
    formulas = f"rows with a text that a spreadsheet would take for a formula, marked by a ' before it: {marked:,}"
    nuls = f"rows with a NUL character, which no CSV can hold, replaced by U+FFFD: {changed:,}"
    return [formulas] * (marked > 0) + [nuls] * (changed > 0)


def guarded(cell: Cell) -> Cell:
    """The cell, and if it is a text that a spreadsheet would compute, with a `'` before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def without_nul(cell: Cell) -> Cell:
    """The cell, with U+FFFD for each NUL: most readers of CSV refuse one, or end there."""
    return cell.replace("\0", "\ufffd") if isinstance(cell, str) else cell

"""Submissions for ARC on Kaggle: for each task and test input two attempts, which are grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import Json
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.reading import Answer, BadRow, Found, record
from hybrid.outputs.source import OutputsSource

ATTEMPTS = ("attempt_1", "attempt_2")
COLOURS, SIDE = 10, 30
MOST_INPUTS = 64
"""Test inputs of a task, as in the data sets that are read."""


class ArcSubmission:
    """A submission; the truths come from the solutions that `--input` names."""

    def __init__(self, source: OutputsSource) -> None:
        self._source = source
        unknown = "model, settings, tokens; without --input also the truths and which tasks are missing"
        self.run: Mapping[str, Json] = {"about": {"grader": "arc", "format": "ARC submission", "unknown": unknown}}
        self.models: list[Json] = []

    def rows(self) -> Iterator[Found]:
        """The tasks."""
        with self._source.open() as stream:
            document = JsonStream(stream, self._source.name)
            for task in document.members():
                yield Found(f"task {task[:80]!r}", (task, document.value()))
            document.end()

    def records(self, content: Any) -> list[dict[str, Json]]:
        """Two records for each test input of a task. Raises BadRow for what is no grid."""
        task, inputs = content
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= MOST_INPUTS:
            raise BadRow("no list of its test inputs' attempts")
        return [
            record(
                f"{task}/{number}",
                Answer("\n".join("".join(map(str, row)) for row in _grid(pair, name, number))),
                task=task,
                key=f"{task}/{number}#{name}",
                view={"attempt": place, "format": "compact"},
                sample=place - 1,
            )
            for number, pair in enumerate(inputs)
            for place, name in enumerate(ATTEMPTS, start=1)
        ]

    def lacks(self, rows: int) -> str:
        """What is missing is known by the solutions alone."""
        return "" if rows else "it holds no tasks"


def _grid(pair: Any, name: str, number: int) -> list[list[int]]:
    """An attempt. Raises BadRow."""
    place = f"test input {number + 1}, {name}"
    grid = pair.get(name) if isinstance(pair, dict) else None
    if grid is None:
        raise BadRow(f"{place}: is not there")
    if not isinstance(grid, list) or not grid or not all(isinstance(row, list) and row for row in grid):
        raise BadRow(f"{place}: no grid, which is a list of rows")
    if any(isinstance(cell, list) for row in grid for cell in row):
        raise BadRow(f"{place}: one level too deep for a grid: a list of lists of rows")
    if len(grid) > SIDE or len(grid[0]) > SIDE or len({len(row) for row in grid}) > 1:
        raise BadRow(f"{place}: not 1 to {SIDE} rows of one length, at most {SIDE}")
    for cell in (cell for row in grid for cell in row):
        if type(cell) is not int or not 0 <= cell < COLOURS:
            raise BadRow(f"{place}: a cell is {cell!r:.20}, no colour 0 to {COLOURS - 1}")
    return grid

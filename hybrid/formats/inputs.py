"""What was asked, joined with the outputs by id: a batch's input, a table, or the solutions of ARC tasks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from hybrid.canonical import Json
from hybrid.errors import BadData, UsageError
from hybrid.formats.json_stream import JsonStream
from hybrid.formats.messages import question_in
from hybrid.formats.reading import Answer, BadRow, Reading, id_of, record
from hybrid.machine.files import explain_errors
from hybrid.outputs.source import open_source
from hybrid.rows import read_rows

TABLE = "CREATE TABLE inputs (id TEXT PRIMARY KEY, number INTEGER, value BLOB, answered INTEGER DEFAULT 0)"

IDS = ("id", "custom_id")
"""Columns that name a row, the first one first."""

QUESTIONS = ("question", "prompt", "input", "messages")


class Inputs:
    """Id -> reference, question and cluster, in a temporary database that spills to disk."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._database = sqlite3.connect("")
        self._database.execute(TABLE)

    @classmethod
    @contextmanager
    def of(cls, reading: Reading) -> Iterator[Inputs]:
        """The inputs that a person named, or none. Raises BadData for a bad row of theirs, UsageError."""
        inputs = cls(reading.inputs)
        with closing(inputs._database):
            if reading.inputs is not None:
                with explain_errors(reading.inputs, doing="reading it"):
                    inputs._fill(reading.inputs, reading.columns)
            yield inputs

    def joined(self, value: dict[str, Json]) -> dict[str, Json]:
        """The record with what its input says. Raises BadRow when none has its id."""
        if self.path is None:
            return value
        id = str(value["question"])
        found = self._database.execute("SELECT value FROM inputs WHERE id = ?", (id,)).fetchone()
        if found is None:
            raise BadRow(f"its id {id!r:.80} is not in {self.path.name}")
        self._database.execute("UPDATE inputs SET answered = 1 WHERE id = ?", (id,))
        return _with_input(value, orjson.loads(found[0]))

    def unanswered(self) -> Iterator[str]:
        """The ids for which no record was joined, in order of the file."""
        for (id,) in self._database.execute("SELECT id FROM inputs WHERE answered = 0 ORDER BY number"):
            yield id

    def missing(self, id: str, kind: str, message: str) -> dict[str, Json]:
        """The record of an input without an output."""
        found = self._database.execute("SELECT value FROM inputs WHERE id = ?", (id,)).fetchone()
        return _with_input(record(id, Answer(None, (kind, message))), orjson.loads(found[0]))

    def _fill(self, path: Path, columns: Mapping[str, str]) -> None:
        """Read all inputs. Raises BadData for an id that is there twice."""
        rows = _solutions(path) if _holds_solutions(path) else _table(path, columns)
        for number, (place, id, value) in enumerate(rows):
            try:
                self._database.execute(
                    "INSERT INTO inputs (id, number, value) VALUES (?, ?, ?)", (id, number, orjson.dumps(value))
                )
            except sqlite3.IntegrityError as error:
                raise BadData(f"{path}, {place}: the id {id!r:.80} is there twice", hint="leave one of them") from error


def _with_input(value: dict[str, Json], asked: Mapping[str, Any]) -> dict[str, Json]:
    view = dict(value["view"]) if isinstance(value["view"], Mapping) else {}
    if asked.get("question") and "question" not in view:
        view["question"] = asked["question"]
    reference = value["reference"] if value["reference"] is not None else asked.get("reference")
    task = asked.get("group") or value["task"]
    return {**value, "task": task, "view": view, "reference": reference}


def _table(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, str, dict[str, Json]]]:
    """The rows of a table or of a batch's input: place, id, and what was asked."""
    for row in read_rows(path):
        values = row.values
        names = (columns["id"],) if "id" in columns else IDS
        name = next((one for one in names if one in values), None)
        if name is None:
            found = ", ".join(values)
            raise UsageError(
                f"{path}, {row.place}: no column {' or '.join(names)}", hint=f"its columns are {found}: --column id=..."
            )
        try:
            id = id_of(values[name], name)
        except BadRow as error:
            raise BadData(f"{path}, {row.place}: {error}") from error
        yield row.place, id, _asked(values, columns)


def _asked(values: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Json]:
    body = values.get("body")
    names = (columns["question"],) if "question" in columns else QUESTIONS
    question = next((values[name] for name in names if name in values), None)
    if isinstance(body, dict):
        question = body.get("messages", body.get("prompt", body.get("input")))
    group = values.get(columns.get("group", "group"))
    return {
        "question": question_in(question),
        "reference": values.get(columns.get("reference", "reference")),
        "group": str(group) if isinstance(group, str | int) and group != "" else "",
    }


def _holds_solutions(path: Path) -> bool:
    """Whether the file is one object of lists of grids, as the solutions of ARC tasks are."""
    try:
        with closing(open_source(path)) as source, source.open() as stream:
            document = JsonStream(stream, str(path))
            if document.begins() != "{":
                return False
            for _ in document.members():
                value = document.value()
                return isinstance(value, list) and bool(value) and isinstance(value[0], list)
    except BadData:
        pass
    return False


def _solutions(path: Path) -> Iterator[tuple[str, str, dict[str, Json]]]:
    """The grids of each task, `TASK/0`, `TASK/1` and so on."""
    with closing(open_source(path)) as source, source.open() as stream:
        document = JsonStream(stream, str(path))
        for task in document.members():
            grids = document.value()
            if not isinstance(grids, list):
                raise BadData(f"{path}, task {task!r:.80}: no list of grids", hint="name the solutions of the tasks")
            for number, grid in enumerate(grids):
                yield f"task {task!r:.80}", f"{task}/{number}", {"reference": grid, "group": task}

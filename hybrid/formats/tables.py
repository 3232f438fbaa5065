"""Plain tables: the answers of any program, with columns that a person names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from hybrid.canonical import Json, encoded
from hybrid.errors import BadData, UsageError, nearest
from hybrid.formats.exported import is_table_row, record_of
from hybrid.formats.inspect_scores import number_of, recorded
from hybrid.formats.lines import json_rows
from hybrid.formats.messages import question_in
from hybrid.formats.reading import Answer, BadRow, Found, Reading, id_of, plain, record, row_in
from hybrid.outputs.source import OutputsSource
from hybrid.rows import read_rows

FIELDS: Mapping[str, str] = {
    "text": "the answer",
    "reference": "what it is compared with",
    "id": "the question",
    "group": "the cluster for the intervals",
    "question": "what was asked, for a judge",
    "sample": "which repeat of the question, from 0 on",
    "error": "why there is no answer",
    "score": "the score that another tool gave",
}
"""Fields of a row that a column may hold. A column of the same name is taken when no other is named."""

UNKNOWN = "model, settings, seeds, tokens, time"


class Table:
    """The rows of a table. `json` says that they are JSON, whatever the file's name."""

    def __init__(self, source: OutputsSource, reading: Reading, *, json: bool) -> None:
        if unknown := [name for name in reading.columns if name not in FIELDS]:
            raise UsageError(f"--column {unknown[0][:80]}=...: no such field", hint=nearest(unknown[0], FIELDS))
        self._source, self._reading, self._json = source, reading, json
        self._number = 0
        first = next(self._good_rows(), {})
        self._exported = not reading.columns and is_table_row(first)
        self._scored = not self._exported and ("score" in reading.columns or "score" in first)
        if first:
            self._refuse_missing(first)
        scored = {"grader": "recorded", "scorers": ["score"]} if self._scored else {}
        self.run: Mapping[str, Json] = {"about": {"format": "table", "unknown": UNKNOWN, **scored}}
        self.models: list[Json] = []

    def rows(self) -> Iterator[Found]:
        """The rows in file order."""
        self._number = 0
        if self._json:
            yield from json_rows(self._source)
            return
        if str(self._source.path) == "-":
            raise UsageError(
                "a table from standard input is JSON lines or a JSON array", hint="name the file of another"
            )
        bad: list[Found] = []
        tell = (lambda number, reason: bad.append(Found(f"row {number:,}", BadRow(reason)))) if self._skips else None
        for row in read_rows(self._source.path, bad=tell):
            yield from bad
            bad.clear()
            yield Found(row.place, row.values)
        yield from bad

    @property
    def _skips(self) -> bool:
        return self._reading.skip_bad

    def records(self, content: Any) -> list[dict[str, Json]]:
        """The record of a row. Raises BadRow."""
        self._number += 1
        row = row_in(content)
        if self._exported:
            return [record_of(row, self._sample(row))]
        error = self._of(row, "error")
        text = None if error else self._text(row)
        id = self._id(row)
        sample = self._sample(row)
        group = self._of(row, "group")
        return [
            record(
                id,
                Answer(text, ("error", str(error)) if error else None),
                task=id_of(group, "group") if group not in (None, "") else "",
                key=f"{id}#{sample}",
                reference=plain(self._of(row, "reference")),
                view=self._view(row),
                sample=sample,
            )
        ]

    def lacks(self, rows: int) -> str:
        """What is missing is known by the inputs alone."""
        return "" if rows else "it holds no rows"

    def _of(self, row: Mapping[str, Any], name: str) -> Any:
        return row.get(self._reading.columns.get(name, name))

    def _refuse_missing(self, row: Mapping[str, Any]) -> None:
        """Raise UsageError for a column that the first good row lacks, BadData when nobody said that it is a table."""
        wanted = {**self._reading.columns}
        if "error" not in wanted:
            wanted.setdefault("text", "text")
        for name, column in wanted.items():
            if column not in row:
                known = ", ".join(f"{one[:40]}" for one in list(row)[:20])
                named = bool(self._reading.columns or self._reading.format)
                raise (UsageError if named else BadData)(
                    f"{self._source.name}: no column {column!r:.80}, which is to hold {FIELDS[name]}",
                    hint=f"its columns are {known}; name one: --column {name}=COLUMN",
                )

    def _good_rows(self) -> Iterator[dict[str, Any]]:
        for found in self.rows():
            with suppress(BadRow):
                yield row_in(found.content)

    def _text(self, row: Mapping[str, Any]) -> str:
        """The answer; numbers are written as JSON writes them. Raises BadRow without one."""
        name = self._reading.columns.get("text", "text")
        value = row.get(name)
        if value is None:
            raise BadRow(f"no answer: its column {name!r:.80} is {'null' if name in row else 'not there'}")
        if isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return encoded(value)
        raise BadRow(f"its column {name!r:.80} holds {'a list' if isinstance(value, list) else 'an object'}, no text")

    def _id(self, row: Mapping[str, Any]) -> str:
        if "id" not in self._reading.columns and "id" not in row:
            return f"row-{self._number:07}"
        return id_of(self._of(row, "id"), "id")

    def _sample(self, row: Mapping[str, Any]) -> int:
        value = self._of(row, "sample")
        if value is None:
            return 0
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if type(value) is not int or not 0 <= value < 2**31:
            raise BadRow(f"its sample is {value!r:.40}, no whole number from 0 on")
        return value

    def _view(self, row: Mapping[str, Any]) -> dict[str, Json]:
        question = question_in(self._of(row, "question"))
        view: dict[str, Json] = {"question": question} if question else {}
        if not self._scored:
            return view
        number = number_of(self._of(row, "score"))
        return {
            **view,
            **(recorded({}, {"score": number}) if isinstance(number, str) else recorded({"score": number}, {})),
        }

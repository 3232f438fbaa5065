"""Which column of a table is which field of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import UsageError, nearest

FIELDS = ("prompt", "messages", "reference", "id", "group", "system", "schema", "max_tokens", "stop")
"""What a row may say; a column of that name says it, unless the setting `columns` names another."""
OF_BATCHES = ("temperature", "top_p", "seed")
"""What a row of OpenAI's batch input may say, too: in other tables columns of these names are data."""
MOST_NAMES = 1000
"""Names of columns that are remembered for a message."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Field -> column; a field without a column is not read."""

    of: Mapping[str, str]
    renamed: frozenset[str] = frozenset()

    @classmethod
    def renaming(cls, pairs: Iterable[str]) -> Columns:
        """The columns by the setting `columns`: `prompt:question`, or `stop:` for none. Raises UsageError."""
        of = {field: field for field in FIELDS}
        renamed, given = set[str](), set[str]()
        for pair in pairs:
            field, colon, column = pair.partition(":")
            if not colon or field not in FIELDS:
                raise UsageError(
                    f"columns={pair:.80}: it is written FIELD:COLUMN, such as prompt:question",
                    hint=f"a field is {', '.join(FIELDS[:-1])} or {FIELDS[-1]}",
                )
            if field in given:
                raise UsageError(
                    f"columns: '{field}' is given twice, the second time as '{pair:.80}'",
                    hint="one column a field; a template makes a prompt of several: --set template='{a} {b}'",
                )
            given.add(field)
            of[field] = column
            if column:
                renamed.add(field)
        return cls(of, frozenset(renamed))

    def read(self, values: Mapping[str, Json]) -> dict[str, Any]:
        """The fields of a row that it has; an empty cell is none."""
        found = {field: values[column] for field, column in self.of.items() if column and column in values}
        return {field: value for field, value in found.items() if value not in (None, "")}


class SeenColumns:
    """The names of the columns in the rows so far: a name that no row has is a wrong name, not a bad row."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._names: dict[str, None] = {}

    def add(self, values: Mapping[str, Json]) -> None:
        """Remember the columns of a row."""
        if len(self._names) < MOST_NAMES:
            self._names.update(dict.fromkeys(values))

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Raise UsageError for the first of these columns that no row has had."""
        for name in names:
            if name not in self._names:
                raise UsageError(
                    f"{self._what} has no column '{name:.80}'", hint=nearest(name[:80], map(_short, self._names))
                )

    def listed(self) -> str:
        """The names for a message."""
        return ", ".join(map(_short, list(self._names)[:20])) or "none"


def _short(name: str) -> str:
    return name[:80]

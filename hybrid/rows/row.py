"""A row of a table, and what is done about a bad one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybrid.canonical import MAX_RECORD, Json
from hybrid.errors import BadData

Unit = Literal["line", "row"]
Told = Callable[[int, str], None]
"""Is told the number of a bad row and what is wrong with it."""

TOO_LARGE = f"more than the {MAX_RECORD:,} bytes allowed in one row"
HINT = "correct it, or leave it out"


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a row by column. `number`, from 1 on, is what an editor shows for a `line`, else that of the row."""

    number: int
    values: Mapping[str, Json]
    unit: Unit = "row"

    @property
    def place(self) -> str:
        """Where it stands: `line 7`."""
        return f"{self.unit} {self.number:,}"


@dataclass(frozen=True, slots=True)
class Faults:
    """What is done about a bad row of a file: `bad` is told and the row left out, or without `bad` the reading ends."""

    path: Path
    unit: Unit
    bad: Told | None = None

    def found(self, number: int, reason: str) -> None:
        """Tell of a bad row. Raises BadData when nobody wants to be told."""
        if self.bad is None:
            raise self.fatal(number, reason, HINT)
        self.bad(number, reason)

    def fatal(self, number: int, reason: str, hint: str = "") -> BadData:
        """The error for what makes the rest of the file unreadable, too."""
        return BadData(f"{self.path}, {self.unit} {number:,}: {reason}", hint=hint)

    def row(self, number: int, values: Mapping[str, Json]) -> Row:
        """A good row."""
        return Row(number, values, self.unit)

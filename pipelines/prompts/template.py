"""A strict template over the columns of a row: `Translate: {text}`.

A name in braces is a column and nothing else: no attribute, no index, no conversion, no format. `{{` and `}}` are
braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hybrid.canonical import Json, encode

_PART = re.compile(r"(\{\{|\}\})|\{([^{}]+)\}|([{}])")


def cell_text(value: Json) -> str:
    """A cell as a text: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else encode(value).decode()


@dataclass(frozen=True)
class Template:
    """The text of a template. Raises ValueError for a brace that has no partner."""

    text: str

    def __post_init__(self) -> None:
        for part in _PART.finditer(self.text):
            if part[3]:
                raise ValueError(
                    f"template has a single '{part[3]}' at character {part.start() + 1:,}: "
                    "a column stands in braces, and a brace itself is written twice"
                )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that it shows, each once."""
        return tuple(dict.fromkeys(part[2] for part in _PART.finditer(self.text) if part[2]))

    def filled(self, cells: Mapping[str, str]) -> str:
        """The text with the cells in place. Raises KeyError for a column that `cells` lacks."""
        return _PART.sub(lambda part: part[1][0] if part[1] else cells[part[2]], self.text)

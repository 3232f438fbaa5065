"""ARC questions as chat messages, and answers back to grids: SEAL's text format and a compact one.

A format defines how a grid is written, how the prompt is built, where the answer ends, and how it is parsed. Parsing is
strict: a text that is not one whole grid in the requested format is refused, with a reason that can be counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hybrid.records import Message
from hybrid.tasks.arc.grid import MAX_SIDE, Grid
from hybrid.tasks.arc.views import Pair

Parsed = tuple[Grid | None, str]
"""A grid and "", or None and the reason why the text is not a grid."""

MAX_TEXT = 4096
"""Longest text that is read, in characters. A grid of 30x30 takes 1,890 in SEAL's format and 929 in the compact one."""


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write grids and to ask for one. `stop` ends the answer; `instruction` opens the system message.

    `end` follows the grid in an answer that is shown as a training example.
    """

    name: str
    instruction: str
    stop: tuple[str, ...]
    end: str
    write: Callable[[Grid], str]
    read: Callable[[str], Parsed]
    ask: Callable[[str, Sequence[Pair], Grid], tuple[Message, ...]]


def messages(format: str, pairs: Sequence[Pair], test_input: Grid, instruction: str = "") -> tuple[Message, ...]:
    """The chat that shows `pairs` and asks for the output of `test_input`; "" means the format's own instruction."""
    form = FORMATS[format]
    return form.ask(instruction or form.instruction, pairs, test_input)


def solved(format: str, pairs: Sequence[Pair], question: Pair, instruction: str = "") -> tuple[Message, ...]:
    """The chat of `messages` with its answer: the last message is the model's."""
    form = FORMATS[format]
    return *messages(format, pairs, question[0], instruction), Message("assistant", form.write(question[1]) + form.end)


def parse(text: str, format: str = "") -> Parsed:
    """The grid that `text` is in `format`, or None and a reason. Never raises.

    Around the grid only blanks are allowed, and after it the format's end mark with what follows it: an engine stops
    there. Without a format, a text that opens with a bracket is read as SEAL's and any other as compact.
    """
    form = FORMATS[_format(text, format)]
    if form.end:
        text = text.partition(form.end)[0]
    return _read(text, form.name) if len(text) <= MAX_TEXT else (None, "too long")


@lru_cache(maxsize=2048)
def _read(text: str, format: str) -> Parsed:
    return FORMATS[format].read(text)


def _format(text: str, format: str) -> str:
    return format or ("seal" if text.lstrip()[:1] == "[" else "compact")


def token_bound(format: str, pairs: Sequence[Pair], test_input: Grid) -> int:
    """The most new tokens that an answer may take, in any view of this question.

    A tokenizer makes at most one token of a digit, blank, bracket or newline, so the characters of the largest grid
    to be expected bound its tokens. Largest expected: the largest output side among the demonstrations, the test
    input's side, or that side times the largest growth from input to output, doubled, and never over 30. In all 2,078
    questions of ARC-AGI 1 and 2 the true output fits. 8 more for the end marks.
    """
    sides = []
    for size in (len, lambda grid: len(grid[0])):
        growth = max(size(output) / size(input) for input, output in pairs)
        expected = max(*(size(output) for _, output in pairs), size(test_input), math.ceil(growth * size(test_input)))
        sides.append(min(MAX_SIDE, 2 * expected))
    write = FORMATS[format].write
    return 8 + max(len(write(_blank(*sides))), len(write(_blank(*reversed(sides)))))


def _blank(height: int, width: int) -> Grid:
    return ((0,) * width,) * height


def _write_seal(grid: Grid) -> str:
    """As numpy prints an array of these sizes: `[[0 1 2]`, newline, ` [3 4 5]]`."""
    return "[[" + "]\n [".join([" ".join(map(str, row)) for row in grid]) + "]]"


def _write_compact(grid: Grid) -> str:
    """A row a line, a digit a cell, nothing between."""
    return "\n".join(["".join(map(str, row)) for row in grid])


_BLANKS = re.compile("[ \t]+")
_ROW_BREAK = re.compile(r"\][ \t]*\r?\n[ \t]*\[")
_BREAK, _OTHER = 254, 255
_CELLS = bytes(_BREAK if c == ord("\n") else c - ord("0") if chr(c) in "0123456789" else _OTHER for c in range(256))
"""Byte -> colour, row break or anything else: a text is read by one call of `bytes.translate`, not cell by cell."""


def is_ended(text: str, format: str = "") -> bool:
    """Whether a whole answer's end mark stands in `text`, so that nothing after it was missed. Never in `compact`."""
    end = FORMATS[_format(text, format)].end
    return bool(end) and end in text


def _read_seal(text: str) -> Parsed:
    body = text.strip()
    if not body:
        return None, "empty"
    inner = body[1:-1].strip()
    if not (body.startswith("[") and body.endswith("]") and inner.startswith("[") and inner.endswith("]")):
        return None, "not one whole grid"
    rows = inner[1:-1].split("]\n [")
    if len(rows) == 1:
        rows = _ROW_BREAK.split(inner[1:-1])
    joined = []
    for row in rows:
        if not row[1::2].strip(" ") and " " not in row[::2]:  # a digit, a blank, a digit and so on
            joined.append(row[::2])
            continue
        cells = [cell.lstrip("0") or "0" for cell in _BLANKS.split(row) if cell]  # 01 is the colour 1
        if not all(cell.isascii() and cell.isdigit() for cell in cells):
            return None, "not one whole grid"
        if any(len(cell) > 1 for cell in cells):
            return None, "colour over 9"
        joined.append("".join(cells))
    return _cells("\n".join(joined))


def _read_compact(text: str) -> Parsed:
    body = text.strip().replace("\r\n", "\n")
    return _cells(body) if body else (None, "empty")


def _cells(text: str) -> Parsed:
    """The grid in rows of digits with one newline between."""
    codes = text.encode(errors="replace").translate(_CELLS)
    if _OTHER in codes:
        return None, "not one whole grid"
    grid = tuple(map(tuple, codes.split(bytes([_BREAK]))))
    width = len(grid[0])
    if len(set(map(len, grid))) > 1:
        return None, "ragged rows"
    if not width:
        return None, "no cells"
    return (grid, "") if width <= MAX_SIDE and len(grid) <= MAX_SIDE else (None, "side over 30")


def _ask_seal(instruction: str, pairs: Sequence[Pair], test_input: Grid) -> tuple[Message, ...]:
    """SEAL's "new format": the demonstrations stand in the system message, the answer ends with "#"."""
    shown = "".join(f"{_write_seal(input)} -> {_write_seal(output)}#\n" for input, output in pairs)
    system = f"{instruction}\nThe input-output grids are provided as python arrays:\n{shown}"
    return Message("system", system), Message("user", f"{_write_seal(test_input)} -> ")


def _ask_compact(instruction: str, pairs: Sequence[Pair], test_input: Grid) -> tuple[Message, ...]:
    """Every demonstration is a turn of the chat, so the model sees its own part end after the grid."""
    turns = [Message("system", instruction)]
    for shown, answer in pairs:
        turns += Message("user", _write_compact(shown)), Message("assistant", _write_compact(answer))
    return *turns, Message("user", _write_compact(test_input))


SEAL = Format(
    name="seal",
    instruction=(
        "Figure out the underlying transformation in the following examples and apply it to the test case. "
        "Here are some examples from this transformation, your answer must follow the format."
    ),
    stop=("#",),
    end="#",
    write=_write_seal,
    read=_read_seal,
    ask=_ask_seal,
)

COMPACT = Format(
    name="compact",
    instruction=(
        "Each user message is an input grid. One rule turns every input grid into its output grid. "
        "Answer with the output grid only."
    ),
    stop=("\n\n",),
    end="",
    write=_write_compact,
    read=_read_compact,
    ask=_ask_compact,
)

FORMATS: Mapping[str, Format] = {form.name: form for form in (SEAL, COMPACT)}
"""Name -> format."""

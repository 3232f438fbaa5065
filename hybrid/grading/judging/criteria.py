"""The criteria of a rubric: texts, or rows of a file with name, scale and weight."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hybrid.canonical import decode_once, encode
from hybrid.errors import BadData, UsageError, keys_of, nearest
from hybrid.machine.files import read_bounded
from hybrid.machine.text_files import utf8

Scale = Literal["yes/no", "1-5"]
SCALES: tuple[str, ...] = get_args(Scale)

MOST = 50
"""Criteria of a rubric."""
LONGEST = 4000
"""Characters of a criterion."""
LONGEST_NAME = 60
LARGEST = 1_000_000
"""Bytes of a file with criteria."""
HEAVIEST = 1e6

BETWEEN = "|"
NAMED = re.compile(r"(\w[\w -]{0,39}):\s+(\S.*)", re.DOTALL)
ROW = 'a row is {"name": "...", "text": "...", "scale": "yes/no" or "1-5", "weight": 1}; only text is needed'
MEMBERS = ("name", "text", "scale", "weight")


@dataclass(frozen=True, slots=True)
class Criterion:
    """A thing that an answer is asked to have, and how a judge says whether it has it."""

    name: str
    text: str
    scale: str = "yes/no"
    weight: float = 1.0

    def share(self, verdict: float) -> float:
        """A verdict on the scale as a number in [0, 1]."""
        return verdict if self.scale == "yes/no" else (verdict - 1) / 4


def criteria_in(given: str, scale: str) -> tuple[Criterion, ...]:
    """The criteria that a setting means: a file NAME.jsonl, the rows of one as a text, or texts with | between.

    A text may begin with a name, `brief: Is the answer brief?`. `scale` is that of what names none. Raises UsageError
    for a text and BadData for a row that is none, each with its place.
    """
    given = given.strip()
    if given.startswith("{"):
        return _checked(_rows(given.encode(), "criteria"), scale)
    if given.endswith((".jsonl", ".json")) and "\n" not in given:
        path = Path(given)
        if not path.is_file():
            raise UsageError(f"there is no file with criteria '{given:.200}'", hint=ROW)
        return _checked(_rows(utf8(read_bounded(path, LARGEST), given), given), scale)
    texts = [text.strip() for text in given.split(BETWEEN) if text.strip()]
    return _checked((({"text": text}, f"criterion {number}") for number, text in enumerate(texts, start=1)), scale)


def as_rows(criteria: Sequence[Criterion]) -> str:
    """The criteria as the rows that `criteria_in` reads: what is stored with the grades."""
    return "\n".join(encode(asdict(one)).decode() for one in criteria)


def _rows(data: bytes, name: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            what = f"{name}: line {number}"
            yield decode_once(line, what=what, limit=LARGEST), what


def _checked(rows: Iterator[tuple[Any, str]], scale: str) -> tuple[Criterion, ...]:
    found: dict[str, Criterion] = {}
    for value, what in rows:
        one = _criterion(value, what, scale)
        if one.name in found:
            raise BadData(f"{what}: there is another criterion called '{one.name}'", hint="give each its own name")
        if len(found) == MOST:
            raise BadData(f"{what}: more than {MOST} criteria", hint="a judge is asked about each of them")
        found[one.name] = one
    return tuple(found.values())


def _criterion(value: Any, what: str, scale: str) -> Criterion:
    if not isinstance(value, dict) or not isinstance(text := value.get("text"), str) or not text.strip():
        raise BadData(f"{what}: a criterion needs a text: {keys_of(value)}", hint=ROW)
    if odd := sorted(value.keys() - {*MEMBERS}):
        raise BadData(f"{what}: a criterion has no '{odd[0]:.60}'", hint=nearest(odd[0][:60], MEMBERS))
    if len(text) > LONGEST:
        raise BadData(f"{what}: a criterion of {len(text):,} characters; at most {LONGEST:,} are asked about")
    named, text = _name_and_text(value, text.strip())
    on, weight = value.get("scale", scale), value.get("weight", 1.0)
    if on not in SCALES:
        raise BadData(f"{what}: the scale is {on!r:.40}, not {' or '.join(SCALES)}", hint=ROW)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not _is_weight(weight):
        raise BadData(f"{what}: the weight is {weight!r:.40}, not a number over 0 and at most {HEAVIEST:g}", hint=ROW)
    return Criterion(_checked_name(named, what), text, on, float(weight))


def _name_and_text(value: Mapping[str, Any], text: str) -> tuple[Any, str]:
    """The name, given or in front of the text or the text's beginning, and the text without it."""
    if value.get("name") is not None:
        return value["name"], text
    if in_front := NAMED.fullmatch(text):
        return in_front[1], in_front[2]
    return " ".join(text.split())[:LONGEST_NAME], text


def _checked_name(name: Any, what: str) -> str:
    if not isinstance(name, str) or not 0 < len(name.strip()) <= LONGEST_NAME or not name.isprintable():
        raise BadData(f"{what}: the name is {name!r:.80}, not a text of 1 to {LONGEST_NAME} characters", hint=ROW)
    return name.strip()


def _is_weight(weight: float) -> bool:
    return math.isfinite(weight) and 0 < weight <= HEAVIEST

"""A number in the answer equals the reference."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from hybrid.bounds import NOT_NEGATIVE, help_of, refuse_outside
from hybrid.canonical import Json
from hybrid.grading.references import acceptable
from hybrid.records import Grade, Output

NUMBER = re.compile(
    r"""
    (?: (?<![\w.)]) [-+] )?                    # a sign, unless a word or number ends before it: 10-3 holds 10 and 3
    (?<![\w.])                                # not inside a word or number: v1.2 holds none
    (?: [0-9]{1,3}(?:,[0-9]{3})+(?![0-9])     # 1,234,567
      | [0-9]+ )?
    (?: \.[0-9]+ | (?<=[0-9]) )               # decimals; without them at least one digit
    (?: [eE][-+]?[0-9]+ )?
    """,
    re.VERBOSE,
)
LONGEST = 1000
"""Most characters of a number; longer ones are ignored."""


@dataclass(frozen=True)
class Numeric:
    """1 when the last (or first) number in the answer equals an acceptable reference within the tolerance, else 0."""

    which: Literal["last", "first"] = field(default="last", metadata=help_of("the number in the answer that counts"))
    relative: float = field(default=0.0, metadata=help_of("allowed difference as a share of the larger number"))
    absolute: float = field(default=0.0, metadata=help_of("allowed difference"))

    def __post_init__(self) -> None:
        refuse_outside(self, relative=NOT_NEGATIVE, absolute=NOT_NEGATIVE)

    def grade(self, output: Output) -> Grade:
        """Ungraded when the reference holds no number; an answer without a number is wrong."""
        wanted = [number for one in acceptable(output.reference) for number in numbers(one)[-1:]]
        if not wanted:
            return Grade(None, "the reference holds no number")
        found = numbers(output.text or "")
        if not found:
            return Grade(0.0, detail={"why": "no number in the answer"})
        answer = found[-1 if self.which == "last" else 0]
        return Grade(float(any(self._equal(one, answer) for one in wanted)))

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        found = [number for one in acceptable(reference) for number in numbers(one)[-1:]]
        return str(found[0].normalize()) if found else None

    def vote(self, text: str) -> str | None:
        """The number that an answer votes for among several samples."""
        found = numbers(text)
        return str(found[-1 if self.which == "last" else 0].normalize()) if found else None

    def _equal(self, one: Decimal, other: Decimal) -> bool:
        allowed = max(Decimal(self.absolute), Decimal(self.relative) * max(abs(one), abs(other)))
        return one == other or abs(one - other) <= allowed


def numbers(text: str) -> list[Decimal]:
    """Every number in `text`. Words such as nan and inf are not numbers."""
    found = (match.group().replace(",", "") for match in NUMBER.finditer(text.replace("−", "-")))
    values = (Decimal(number) for number in found if len(number) <= LONGEST and _modest(number))
    return list(values)


def _modest(number: str) -> bool:
    """Whether the exponent is short enough to compute with."""
    exponent = number.lower().partition("e")[2].lstrip("+-").lstrip("0")
    return len(exponent) <= 4

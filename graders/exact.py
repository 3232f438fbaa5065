"""The whole answer equals the reference."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.grading.references import acceptable, why_not_acceptable
from hybrid.records import Grade, Output


@dataclass(frozen=True)
class Exact:
    """1 when the whole answer equals an acceptable reference, else 0."""

    case: bool = field(default=False, metadata=help_of("upper and lower case differ"))
    space: bool = field(
        default=False, metadata=help_of("white space counts; else runs are one space, none at the ends")
    )

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference."""
        text = output.text or ""
        if text == output.reference:
            return RIGHT
        wanted = acceptable(output.reference)
        if not wanted:
            return Grade(None, why_not_acceptable(output.reference))
        answers, words = _known(wanted, self.case, self.space)
        if not self.space and len(text.split(None, words)) > words:  # the normal form keeps the number of words
            return WRONG
        return RIGHT if self.normal(text) in answers else WRONG

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return self.normal(wanted[0]) if wanted else None

    def vote(self, text: str) -> str | None:
        """What an answer votes for among several samples: its normal form."""
        return self.normal(text) or None

    def normal(self, text: str) -> str:
        """`text` without the differences that do not count."""
        return _normal(text, self.case, self.space)


def _normal(text: str, case: bool, space: bool) -> str:
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    text = text if space else " ".join(text.split())
    return text if case else text.casefold()


@lru_cache(maxsize=4)  # the outputs of a question come together
def _known(wanted: tuple[str, ...], case: bool, space: bool) -> tuple[frozenset[str], int]:
    """The normal forms of acceptable answers, and how many words the longest of them has."""
    return frozenset(_normal(one, case, space) for one in wanted), max(len(one.split()) for one in wanted)


RIGHT, WRONG = Grade(1.0), Grade(0.0)

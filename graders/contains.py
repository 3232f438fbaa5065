"""The reference occurs in the answer."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.grading.references import acceptable, why_not_acceptable
from hybrid.records import Grade, Output

_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Contains:
    """1 when an acceptable reference occurs in the answer, else 0. An answer that lists many candidates passes, too."""

    case: bool = field(default=False, metadata=help_of("upper and lower case differ"))
    words: bool = field(default=True, metadata=help_of("only as whole words: 'cat' is not in 'catalogue'"))

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, or with an empty one, which every answer contains."""
        wanted = [self.normal(one) for one in acceptable(output.reference)]
        if not any(wanted):
            return Grade(None, why_not_acceptable(output.reference))
        answer = self.normal(output.text or "")
        return Grade(float(any(self._occurs(one, answer) for one in wanted if one)))

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return self.normal(wanted[0]) if wanted else None

    def normal(self, text: str) -> str:
        """`text` with single spaces, in one case."""
        text = " ".join(unicodedata.normalize("NFC", text).split())
        return text if self.case else text.casefold()

    def _occurs(self, part: str, text: str) -> bool:
        start = text.find(part)
        while self.words and start >= 0 and not _at_word_bounds(text, start, start + len(part)):
            start = text.find(part, start + 1)
        return start >= 0


def _at_word_bounds(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] begins and ends at word boundaries."""
    return not any(
        0 < cut < len(text) and _WORD.match(text[cut - 1]) and _WORD.match(text[cut]) for cut in (start, end)
    )

"""The whole answer is the reference."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

from hybrid.canonical import Json
from hybrid.records import Grade, Output
from hybrid.references import NO_REFERENCE, acceptable


@dataclass(frozen=True)
class Exact:
    """1 when the whole answer equals an acceptable reference, else 0."""

    case: bool = field(default=False, metadata={"help": "upper and lower case differ"})
    space: bool = field(
        default=False, metadata={"help": "white space counts; else runs are one space, none at the ends"}
    )

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference."""
        wanted = acceptable(output.reference)
        if not wanted:
            return Grade(None, NO_REFERENCE)
        answer = self.normal(output.text or "")
        return RIGHT if any(self.normal(one) == answer for one in wanted) else WRONG

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = acceptable(reference)
        return self.normal(wanted[0]) if wanted else None

    def normal(self, text: str) -> str:
        """`text` with what does not count taken out."""
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
        text = text if self.space else " ".join(text.split())
        return text if self.case else text.casefold()


RIGHT, WRONG = Grade(1.0), Grade(0.0)

"""The answer, as SQuAD's official script compares it, is the reference."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.answers import best_f1, normal, same
from hybrid.canonical import Json
from hybrid.records import Grade, Output
from hybrid.references import NO_REFERENCE, acceptable

NO_WORDS = "the reference holds nothing but articles, punctuation and white space"


@dataclass(frozen=True)
class Squad:
    """1 when the answer without case, punctuation and articles is an acceptable reference; word F1 beside it."""

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, or when the normalisation leaves nothing of it."""
        wanted = _with_words(output.reference)
        if not wanted:
            return Grade(None, NO_WORDS if acceptable(output.reference) else NO_REFERENCE)
        answer = output.text or ""
        return Grade(float(same(answer, wanted)), figures={"f1": best_f1(answer, wanted)})

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = _with_words(reference)
        return normal(wanted[0]) if wanted else None


def _with_words(reference: Json) -> list[str]:
    """The acceptable answers of which the normalisation leaves something, as the script of SQuAD 2.0 takes them."""
    return [one for one in acceptable(reference) if normal(one)]

"""How many words the answer and the reference share: SQuAD's F1."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.answers import best_f1, normal
from hybrid.records import Grade, Output
from hybrid.references import NO_REFERENCE, acceptable

NO_WORDS = "the reference holds nothing but articles, punctuation and white space"


@dataclass(frozen=True)
class F1:
    """The F1 of the answer's words, normalised as SQuAD's script does it, with the reference that fits best."""

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, or when the normalisation leaves nothing of it."""
        wanted = [one for one in acceptable(output.reference) if normal(one)]
        if not wanted:
            return Grade(None, NO_WORDS if acceptable(output.reference) else NO_REFERENCE)
        return Grade(best_f1(output.text or "", wanted))

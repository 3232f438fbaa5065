"""Word overlap of answer and reference: SQuAD's F1."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.grading.answers import best_f1
from hybrid.grading.references import why_none, worded
from hybrid.records import Grade, Output


@dataclass(frozen=True)
class F1:
    """The F1 of the answer's words, normalised as SQuAD's script does it, with the best reference."""

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, or when the normalisation leaves nothing of it."""
        wanted = worded(output.reference)
        if not wanted:
            return Grade(None, why_none(output.reference))
        return Grade(best_f1(output.text or "", wanted))

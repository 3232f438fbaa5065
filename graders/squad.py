"""The answer equals the reference after the normalisation of SQuAD's official script."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.canonical import Json
from hybrid.grading.answers import best_f1, normal, same
from hybrid.grading.references import why_none, worded
from hybrid.records import Grade, Output


@dataclass(frozen=True)
class Squad:
    """1 when the answer without case, punctuation and articles is an acceptable reference; word F1 is a figure."""

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, or when the normalisation leaves nothing of it."""
        wanted = worded(output.reference)
        if not wanted:
            return Grade(None, why_none(output.reference))
        answer = output.text or ""
        return Grade(float(same(answer, wanted)), figures={"f1": best_f1(answer, wanted)})

    def control(self, reference: Json) -> str | None:
        """The constant answer that would be right here, in normal form."""
        wanted = worded(reference)
        return normal(wanted[0]) if wanted else None

"""N-gram or longest-common-subsequence overlap of answer and reference: ROUGE (Lin 2004)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from hybrid.bounds import help_of
from hybrid.grading.references import acceptable, why_not_acceptable
from hybrid.machine.late_imports import import_object
from hybrid.records import Grade, Output

KINDS = ("rouge1", "rouge2", "rougeL")
MOST_WORDS = 4_000
"""Most words of an answer and its references together: the library's table for rougeL has the size of their product."""

_WORD = re.compile(r"[a-z0-9]+", re.IGNORECASE | re.ASCII)


NO_WORD = "ROUGE sees no word in the reference"


@dataclass(frozen=True)
class Rouge:
    """The F measure of ROUGE with the best reference, by the library rouge-score; the other kinds are figures."""

    kind: Literal["rouge1", "rouge2", "rougeL"] = field(
        default="rougeL", metadata=help_of("single words, pairs of words, or the longest common sequence of words")
    )
    stemmer: bool = field(default=False, metadata=help_of("endings do not count: 'runs' is 'run' (Porter, English)"))

    def __post_init__(self) -> None:
        _scorer(self.stemmer)  # raises for a missing library before the first answer is read

    def grade(self, output: Output) -> Grade:
        """Ungraded without a reference, when it has no ASCII word, and when answer and references are too long."""
        wanted = [one for one in acceptable(output.reference) if _WORD.search(one)]
        if not wanted:
            given = acceptable(output.reference)
            return Grade(None, NO_WORD if given else why_not_acceptable(output.reference))
        answer = output.text or ""
        if sum(map(_words, (answer, *wanted))) > MOST_WORDS:
            return Grade(None, f"answer and references are too long: over {MOST_WORDS:,} words")
        measures = _measures(self.stemmer, wanted, answer)
        return Grade(measures.pop(self.kind), figures=measures)


def _words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))


def _measures(stemmer: bool, wanted: Sequence[str], answer: str) -> dict[str, float]:
    """The F measure of each kind, each with its best reference."""
    found: Mapping[str, Any] = _scorer(stemmer).score_multi(wanted, answer)
    return {kind: min(1.0, float(found[kind].fmeasure)) for kind in KINDS}


@cache
def _scorer(stemmer: bool) -> Any:
    scorer = import_object("rouge_score.rouge_scorer:RougeScorer", needed_for="the grader 'rouge'")
    return scorer(list(KINDS), use_stemmer=stemmer)

"""What an answer scores: strictly, right or not; or as reasoning-gym does, floors and partial credit included.

Answers come from models and from strangers. Nothing of them is evaluated, and the work is bounded by their length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from hybrid.tasks.reasoning import partial_credit, strict
from hybrid.tasks.reasoning.answers import extract, first_opened
from hybrid.tasks.reasoning.levels import TASKS
from hybrid.tasks.reasoning.questions import Question

Scoring = Literal["strict", "paper"]

FULL = 10_000
"""The score of a right answer: scores are whole numbers, so that equal ones are equal."""

STRICT: Mapping[str, Callable[[Question, str], bool]] = {
    "base_conversion": strict.same_digits,
    "basic_arithmetic": strict.same_number,
    "arc_1d": strict.same_row,
    "bf": strict.same_text,
    "propositional_logic": strict.follows,
    "fraction_simplification": strict.lowest_terms,
    "decimal_arithmetic": strict.same_decimal,
    "calendar_arithmetic": strict.same_date,
    "binary_matrix": strict.same_matrix,
}

PAPER: Mapping[str, Callable[[Question, str | None], float]] = {
    "propositional_logic": partial_credit.propositional_logic,
    "fraction_simplification": partial_credit.fraction_simplification,
    "decimal_arithmetic": partial_credit.decimal_arithmetic,
    "calendar_arithmetic": partial_credit.calendar_arithmetic,
    "binary_matrix": partial_credit.binary_matrix,
}
"""The tasks whose scorer is not that of a text that contains the answer."""


def score(question: Question, text: str, scoring: Scoring) -> int:
    """The score of a whole completion, 0 to 10,000. `strict`: 10,000 for a right answer in tags, 0 for all else."""
    if scoring == "strict":
        answer = extract(text)
        return FULL * (answer is not None and STRICT[question.task](question, answer))
    scorer = PAPER.get(question.task, partial_credit.containing)
    return round(FULL * scorer(question, first_opened(text)))


def silent_score(task: str, scoring: Scoring) -> int:
    """What an empty completion scores, whatever the question. Raises ValueError for an unknown task."""
    if task not in TASKS:
        raise ValueError(f"no task {task!r:.40}: {', '.join(TASKS)}")
    return 100 if scoring == "paper" and task == "fraction_simplification" else 0

"""How hard the tasks are: the parameters of reasoning-gym's generators by level, and the prompts of the easy one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

TASKS = (
    "base_conversion", "basic_arithmetic", "arc_1d", "bf", "propositional_logic", "fraction_simplification",
    "decimal_arithmetic", "calendar_arithmetic", "binary_matrix",
)  # fmt: skip
"""The tasks, in the paper's order."""

Parameters = Mapping[str, Any]

PUBLISHED: Mapping[str, Parameters] = {
    "basic_arithmetic": {"format_style": "natural"},
    "calendar_arithmetic": {
        "year": 2023,
        "tasks": ("count_days", "weekday_of_date", "is_leap_year", "recurring_event_day"),
    },
    "decimal_arithmetic": {"min_num_decimal_places": 1, "max_num_decimal_places": 3, "precision": 5},
    "fraction_simplification": {
        "max_value": 100,
        "min_factor": 2,
        "styles": ("plain", "latex_frac", "latex_dfrac"),
    },
}
"""Where the configuration that the paper's code was published with differs from reasoning-gym's defaults."""

EASY: Mapping[str, Parameters] = {
    "base_conversion": {"min_base": 8, "max_base": 10, "min_value": 1, "max_value": 30},
    "basic_arithmetic": {
        "max_terms": 2,
        "max_digits": 1,
        "operators": ("+", "-"),
        "allow_parentheses": False,
    },
    "arc_1d": {"min_size": 8, "max_size": 8, "num_train": 2},
    "propositional_logic": {"max_vars": 3, "max_statements": 2, "max_complexity": 2},
    "fraction_simplification": {"max_value": 9, "min_factor": 2, "max_factor": 3, "styles": ("plain",)},
    "decimal_arithmetic": {
        "min_num_decimal_places": 1,
        "max_num_decimal_places": 1,
        "max_terms": 2,
        "precision": 3,
    },
    "calendar_arithmetic": {"tasks": ("is_leap_year",)},
    "binary_matrix": {"min_n": 3, "max_n": 3, "p_zero": 0.4},
}

LEVELS: Mapping[str, Mapping[str, Parameters]] = {"paper": {}, "rl-swarm": PUBLISHED, "easy": EASY}
"""Level -> task -> the parameters that are not reasoning-gym's defaults."""


class Example(NamedTuple):
    """What an easy prompt shows: how to answer, a question, its answer."""

    system: str
    question: str
    answer: str


EXAMPLES: Mapping[str, Example] = {
    "base_conversion": Example("Answer with <answer>number</answer>.", "Write 9 of base 10 in base 8.", "11"),
    "basic_arithmetic": Example("Answer with <answer>number</answer>.", "Calculate 5 + 6.", "11"),
    "arc_1d": Example(
        "Answer with <answer>numbers</answer>.", "0 0 2 0 -> 0 0 0 2\n0 5 5 0 -> 0 0 5 5\n0 3 0 0 -> ?", "0 0 3 0"
    ),
    "bf": Example(
        "Answer with <answer>text</answer>.", "What does this BF program print? ++++++++[>++++++++<-]>+.", "A"
    ),
    "propositional_logic": Example(
        "Answer with <answer>formula</answer>.", "Given: Q, (P → R). What follows?", "(Q ∧ (P → R))"
    ),
    "fraction_simplification": Example("Answer with <answer>fraction</answer>.", "Simplify 6/8.", "3/4"),
    "decimal_arithmetic": Example("Answer with <answer>number</answer>.", "Calculate 2.5+1.2.", "3.7"),
    "calendar_arithmetic": Example(
        "Answer with <answer>Yes</answer> or <answer>No</answer>.",
        "Is 2011 a leap year? Answer with Yes or No.",
        "No",
    ),
    "binary_matrix": Example(
        "Answer with <answer>matrix</answer>.", "How far is the nearest 0 of each cell?\n1 1\n0 1", "1 2\n0 1"
    ),
}


def _rows(rows: Sequence[Sequence[int]]) -> str:
    return "\n".join(" ".join(map(str, row)) for row in rows)


def _pairs(known: Mapping[str, Any]) -> str:
    pairs = [*known["train_examples"], {"input": known["test_example"]["input"], "output": "?"}]
    return "\n".join(" -> ".join(" ".join(map(str, pair[side])) for side in ("input", "output")) for pair in pairs)


SHORT: Mapping[str, Callable[[str, Mapping[str, Any]], str]] = {
    "base_conversion": lambda _, known: "Write {source_repr} of base {source_base} in base {target_base}.".format(
        **known
    ),
    "arc_1d": lambda _, known: _pairs(known),
    "bf": lambda _, known: f"What does this BF program print? {known['bf_program'].strip()}",
    "propositional_logic": lambda _, known: f"Given: {', '.join(known['premises'])}. What follows?",
    "fraction_simplification": lambda _, known: "Simplify {numerator}/{denominator}.".format(**known),
    "decimal_arithmetic": lambda text, _: f"Calculate {text.splitlines()[-1].removesuffix(' = ?')}.",
    "binary_matrix": lambda _, known: f"How far is the nearest 0 of each cell?\n{_rows(known['matrix'])}",
}
"""Task -> the question in few words, from reasoning-gym's text and what it knows; the others are short as they are."""

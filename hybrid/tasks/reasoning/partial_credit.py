"""Scores in [0, 1] as the verifiers of reasoning-gym 0.1.25 give them, floors and partial credit included.

They are written anew because answers are hostile: reasoning-gym's evaluate a matrix as Python, try 2^n assignments for
n names that an answer makes up, and raise for a number of 400 digits. None is an absent answer.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from math import exp

from hybrid.tasks.reasoning.formulas import LONGEST, Judgement, judge, parse
from hybrid.tasks.reasoning.questions import Question
from hybrid.tasks.reasoning.strict import rows_in_brackets

MOST_DIGITS = 4300
"""Python's own bound of the digits of a whole number in a text."""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIDY = re.compile(r"\\(?:frac|dfrac)\s*{\s*(\d+)\s*}\s*{\s*(\d+)\s*}", re.IGNORECASE)


def containing(question: Question, answer: str | None) -> float:
    """1 for the very text; for a longer one that contains it, the share that it makes up."""
    if not answer:
        return 0.0
    if answer == question.answer:
        return 1.0
    return len(question.answer) / len(answer) if question.answer in answer else 0.0


def decimal_arithmetic(question: Question, answer: str | None) -> float:
    """1 within one unit of the last decimal place that the question's numbers may have."""
    if answer is None:
        return 0.0
    places = int(question.metadata["difficulty"]["decimal_places"][1])  # type: ignore[index, call-overload]
    context = Context()
    try:
        away = abs(context.subtract(Decimal(answer), Decimal(question.answer)))
        return float(away <= Decimal(10) ** -places)
    except ArithmeticError:  # no number, or none that a number can be taken from
        return 0.0


def calendar_arithmetic(question: Question, answer: str | None) -> float:
    """A wrong weekday 0.1, one not capitalized 0.05; a count by its relative error; yes and no 1 or 0."""
    if not answer:
        return 0.0
    if question.answer in ("Yes", "No"):
        return float(answer.strip().lower() == question.answer.lower())
    if question.answer in WEEKDAYS:
        known = 0.1 if answer in WEEKDAYS else 0.05 if answer.title() in WEEKDAYS else 0.0
        return 1.0 if answer == question.answer else known
    counted, wanted = whole(answer), int(question.answer)
    if counted is None or wanted == 0:
        return float(counted == wanted)
    return exp(-5 * min(abs(counted - wanted), 1000 * wanted) / wanted)


def fraction_simplification(question: Question, answer: str | None) -> float:
    """0.1 when one part is that of the question, 0.05 for another fraction, 0.01 for anything else and for nothing."""
    parts = _parts((answer or "").strip().strip("$").strip())
    if parts is None:
        return 0.01
    known = question.metadata
    if parts == (known["simplified_numerator"], known["simplified_denominator"]):
        return 1.0
    return 0.1 if parts[0] == known["numerator"] or parts[1] == known["denominator"] else 0.05


def binary_matrix(question: Question, answer: str | None) -> float:
    """0.1 for the right rows written as lists."""
    if answer is None:
        return 0.0
    if answer == question.answer:
        return 1.0
    return 0.1 * (rows_in_brackets(answer) == [row.split() for row in question.answer.splitlines()])


def propositional_logic(question: Question, answer: str | None) -> float:
    """0.25 for a tautology or a single name that follows, 0.05 for what does not follow, rubbish included.

    An answer that is too long to be compared does not follow.
    """
    if answer is None:
        return 0.0
    names, given = (list(map(str, question.metadata[key])) for key in ("variables", "premises"))  # type: ignore[arg-type]
    if not set(re.findall("[A-Z]", answer)) <= set(names) or not answer.strip():
        return 0.0
    if len(answer) > LONGEST:
        return 0.05
    try:
        conclusion = parse(answer, implies_last=True)
    except ValueError:
        return 0.0
    try:
        found = judge([parse(one, implies_last=True) for one in given], conclusion)
    except ValueError:
        found = Judgement(follows=False, tautology=False)
    if not found.follows:
        return 0.05
    return 0.25 if found.tautology or not conclusion.operator else 1.0


def whole(text: str) -> int | None:
    """The whole number that Python reads in a text, or None."""
    if len(text) > MOST_DIGITS:
        return None
    try:
        return int(text)
    except ValueError:
        return None


def _parts(text: str) -> tuple[int, int] | None:
    """Numerator and denominator."""
    if found := TIDY.match(text):
        parts = [whole(found[1]), whole(found[2])]
    elif "/" in text:
        parts = [whole(one.strip()) for one in text.split("/", 1)]
    else:
        return None
    return None if None in parts else (parts[0], parts[1])  # type: ignore[return-value]

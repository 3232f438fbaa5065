"""Right or not, as whoever marks mathematics would say: by value where the question asks for one, not by spelling.

What is longer than LONGEST characters is wrong.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from hybrid.tasks.reasoning.formulas import judge, written
from hybrid.tasks.reasoning.questions import Question

LONGEST = 1000
"""Characters of an answer that is looked at: the longest right one, a matrix of 10 x 10 in brackets, has 320."""
MOST_DIGITS = 40
PREFIXES = {2: "0b", 8: "0o", 16: "0x"}

_NUMBER = re.compile(
    r"(?P<sign>[+\-−]?)(?P<whole>[0-9]{1,40}|[0-9]{1,3}(?:,[0-9]{3}){1,12})?(?:\.(?P<places>[0-9]{0,40}))?"
    r"(?:[eE](?P<exponent>[+\-]?[0-9]{1,2}))?"
)
_OVER = re.compile(r"([0-9]{1,40})\s*/\s*([0-9]{1,40})|\\[dt]?frac\s*\{\s*([0-9]{1,40})\s*\}\s*\{\s*([0-9]{1,40})\s*\}")
_ROW = re.compile(r"[0-9](?:(?:\s*,\s*|\s+)[0-9])*")
_MATRIX = re.compile(r"\[(?:\[[0-9]{1,3}(?:,[0-9]{1,3})*\],?)+\]")


def number(text: str) -> Fraction | None:
    """The number that a text is, or None: digits, sign, point, commas between thousands, an exponent of two digits."""
    found = _NUMBER.fullmatch(_plain(text))
    if found is None or not (found["whole"] or found["places"]):
        return None
    digits = f"{(found['whole'] or '0').replace(',', '')}.{found['places'] or '0'}"
    value = Fraction(digits) * Fraction(10) ** int(found["exponent"] or 0)
    return -value if found["sign"] in ("-", "−") else value


def same_number(question: Question, answer: str) -> bool:
    """The same number."""
    return number(answer) == Fraction(question.answer)


def same_decimal(question: Question, answer: str) -> bool:
    """The exact value rounded to the digits that the question asks for, or reasoning-gym's answer.

    Its last digits may differ from the exact ones, because it rounds after every operation.
    """
    value = number(answer)
    wanted = (question.answer, str(question.metadata["rounded"]))
    return value is not None and value in {Fraction(Decimal(one)) for one in wanted}


def same_digits(question: Question, answer: str) -> bool:
    """The same number in the base that is asked for: leading zeros, capitals and 0x of base 16 are right."""
    base = int(question.metadata["target_base"])  # type: ignore[arg-type]
    digits = _plain(answer).lower().removeprefix(PREFIXES.get(base, "\0"))
    if not re.fullmatch(r"[0-9a-z]{1,40}", digits):
        return False
    try:
        return int(digits, base) == question.metadata["decimal_value"]
    except ValueError:  # a digit that the base does not have
        return False


def same_text(question: Question, answer: str) -> bool:
    """The same characters, quotes around them aside."""
    return _plain(answer, ends="") == question.answer


def same_row(question: Question, answer: str) -> bool:
    """The same cells, with spaces or commas between them, perhaps in brackets."""
    cells = _short(answer)
    if cells[:1] + cells[-1:] in ("[]", "()"):
        cells = cells[1:-1].strip()
    return _ROW.fullmatch(cells) is not None and re.findall("[0-9]", cells) == question.answer.split()


def same_matrix(question: Question, answer: str) -> bool:
    """The same rows: a line each, or lists in brackets."""
    wanted = [row.split() for row in question.answer.splitlines()]
    lines = [re.split(r"\s*,\s*|\s+", line.strip()) for line in _short(answer).splitlines()]
    return wanted in (lines, rows_in_brackets(answer))


def rows_in_brackets(answer: str) -> list[list[str]] | None:
    """The rows of a matrix that is written as a list of lists of numbers, or None."""
    text = re.sub(r"\s+", "", _short(answer)).translate(str.maketrans("()", "[]"))
    if not _MATRIX.fullmatch(text):
        return None
    return [re.findall("[0-9]+", row) for row in re.findall(r"\[([0-9,]+)\]", text)]


def lowest_terms(question: Question, answer: str) -> bool:
    """The fraction in its lowest terms, as p/q or in LaTeX; a whole number without its denominator 1 too."""
    wanted = [str(question.metadata[f"simplified_{part}"]) for part in ("numerator", "denominator")]
    text = _plain(answer)
    if found := _OVER.fullmatch(text):
        return [part.lstrip("0") for part in found.groups() if part is not None] == wanted
    return wanted[1] == "1" and text.lstrip("0") == wanted[0]


def same_date(question: Question, answer: str) -> bool:
    """The same weekday, yes or no in capitals or not; or the same number."""
    if question.answer.lstrip("-").isdigit():
        return same_number(question, answer)
    return _plain(answer).casefold() == question.answer.casefold()


def follows(question: Question, answer: str) -> bool:
    """A formula in the question's notation and names that follows from the premises and is no tautology."""
    names = [str(name) for name in question.metadata["variables"]]  # type: ignore[union-attr]
    premises = [written(str(one), names) for one in question.metadata["premises"]]  # type: ignore[union-attr]
    try:
        found = judge(premises, written(_plain(answer), names))
    except ValueError:
        return False
    return found.follows and not found.tautology


def _short(answer: str) -> str:
    """The answer without white space around it; "" when it is too long to be right."""
    return answer.strip() if len(answer) <= LONGEST else ""


def _plain(answer: str, ends: str = ".") -> str:
    """The answer without the marks that people set around one: $, quotes, and a full stop after it."""
    text = _short(answer).rstrip(ends + " ") if ends else _short(answer)
    for mark in ("$", '"', "'", "`"):
        if len(text) > 1 and text[0] == text[-1] == mark:
            text = text[1:-1].strip()
    return text.rstrip(ends) if ends else text

"""`squad`: what the official script of SQuAD 1.1 says, pair by pair."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.squad import Squad
from hybrid.records import Output
from hybrid.testing import check_grader

PAIRS = [
    # answer, reference, exact match, F1 by the script
    ("Denver Broncos", "Denver Broncos", 1, 1.0),
    ("The Denver Broncos.", "denver broncos", 1, 1.0),
    ("  a  gold\n", "Gold!", 1, 1.0),
    ("February 7, 2016", "February 7 2016", 1, 1.0),
    ("U.S.A.", "USA", 1, 1.0),
    ("well-known", "wellknown", 1, 1.0),
    ("well known", "well-known", 0, 0.0),
    ("theatre", "atre", 0, 0.0),
    ("an apple a day", "apple day", 1, 1.0),
    ("The", "Denver", 0, 0.0),
    ("", "Denver", 0, 0.0),
    ("the Carolina Panthers of 2015", "Carolina Panthers", 0, 2 * (2 / 4) * 1 / (2 / 4 + 1)),
    ("to be or not to be", "be to", 0, 2 * (2 / 6) * 1 / (2 / 6 + 1)),
    ("yes yes yes", "yes", 0, 0.5),
    ("yes", "yes yes yes", 0, 0.5),
    ("24-10", "24\N{EN DASH}10", 0, 0.0),  # only ASCII punctuation goes away
    ("\N{LEFT DOUBLE QUOTATION MARK}gold\N{RIGHT DOUBLE QUOTATION MARK}", "gold", 0, 0.0),
    ("\N{LEFT DOUBLE QUOTATION MARK}the gold\N{RIGHT DOUBLE QUOTATION MARK}", "gold", 0, 0.0),
    ("caf\u00e9", "CAF\u00c9", 1, 1.0),
    ("cafe\u0301", "caf\u00e9", 0, 0.0),  # nor is Unicode composed
    ("Stra\u00dfe", "STRASSE", 0, 0.0),  # lower case, not case folding
    ("the\N{NO-BREAK SPACE}Rhine", "Rhine", 1, 1.0),
    ("$5", "5", 1, 1.0),
    ("5 \N{EURO SIGN}", "5", 0, 2 / 3),
    ("a.b", "ab", 1, 1.0),
    ("a_b", "ab", 1, 1.0),
]


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(("text", "reference", "exact", "f1"), PAIRS)
def test_it_says_what_the_official_script_says(text: str, reference: str, exact: int, f1: float) -> None:
    grade = Squad().grade(said(text, reference))
    assert grade.score == exact
    assert grade.figures["f1"] == pytest.approx(f1)


def test_the_reference_that_fits_best_counts_for_each_measure() -> None:
    grade = Squad().grade(said("the big green apple", ["green pear", "apple", "big green apple tree"]))
    assert grade.score == 0.0
    assert grade.figures["f1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert Squad().grade(said("Wien", ["Vienna", "Wien"])).score == 1.0


@pytest.mark.parametrize("reference", [None, [], {}, True, [[1]], "", "The", ["a", "!?"]])
def test_without_a_word_in_the_reference_there_is_no_score(reference: Any) -> None:
    assert Squad().grade(said("", reference)).score is None
    assert Squad().control(reference) is None


def test_a_reference_without_a_word_makes_nothing_right_among_others() -> None:
    assert Squad().grade(said("the", ["the", "Rome"])).score == 0.0
    assert Squad().control(["the", "Rome"]) == "rome"


def test_it_survives_any_text() -> None:
    check_grader(Squad(), ["Rome", 7], right="the 7")


@given(st.text(), st.text(min_size=1))
def test_exact_is_the_strictest_and_both_are_symmetric(one: str, other: str) -> None:
    grade, back = Squad().grade(said(one, other)), Squad().grade(said(other, one))
    if grade.score is not None:
        assert grade.figures["f1"] >= grade.score
    if grade.score is not None and back.score is not None:
        assert (grade.score, grade.figures["f1"]) == (back.score, back.figures["f1"])


@given(
    st.text(alphabet="aAn theTHE.,-_'\n\u00e9", max_size=30), st.text(alphabet="aAn theTHE.,-_'\n\u00e9", max_size=30)
)
def test_equal_for_the_script_is_equal_here(one: str, other: str) -> None:
    def official(text: str) -> str:  # the script's four steps, word by word
        bare = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())

    if official(other):
        assert Squad().grade(said(one, other)).score == float(official(one) == official(other))

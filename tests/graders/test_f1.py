"""`f1`: partly right answers get a part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.f1 import F1
from graders.squad import Squad
from hybrid.records import Output
from hybrid.testing import check_grader


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The capital is Paris.", "Paris", 0.5),
        ("Paris", "Paris", 1.0),
        ("Paris, France", "Paris", 2 / 3),
        ("London", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("the", "Paris", 0.0),
        ("Paris Paris", "Paris in France", 0.4),
        ("about six weeks", ["six weeks", "weeks"], 0.8),
        (" 42 ", 42, 1.0),
    ],
)
def test_the_score_is_the_f1_of_the_words(text: str, reference: Any, score: float) -> None:
    assert F1().grade(said(text, reference)).score == pytest.approx(score)


@pytest.mark.parametrize("reference", [None, [], {}, "an", "..."])
def test_without_a_word_in_the_reference_there_is_no_score(reference: Any) -> None:
    assert F1().grade(said("an", reference)).score is None


def test_it_survives_any_text() -> None:
    check_grader(F1(), "the quick brown fox", right="Quick, brown fox")


@pytest.mark.slow
@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_it_is_the_figure_that_squad_gives(text: str, references: list[str]) -> None:
    mine, beside = F1().grade(said(text, references)), Squad().grade(said(text, references))
    assert mine.score == beside.figures.get("f1")

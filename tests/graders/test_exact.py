"""`exact`: what counts as the same answer."""

from __future__ import annotations

import sys
import unicodedata
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.exact import Exact
from hybrid.errors import UsageError
from hybrid.records import Output
from hybrid.settings import build


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("Paris", "Paris", 1.0),
        (" paris\n", "Paris", 1.0),
        ("New\t  York", "new york", 1.0),
        ("Paris.", "Paris", 0.0),
        ("It is Paris", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("", "", 1.0),
        ("Stra\u00dfe", "STRASSE", 1.0),
        ("cafe\u0301", "caf\u00e9", 1.0),
        ("Wien", ["Vienna", "Wien"], 1.0),
        ("Graz", ["Vienna", "Wien"], 0.0),
        ("42", 42, 1.0),
    ],
)
def test_an_answer_is_right_when_it_is_the_reference(text: str, reference: Any, score: float) -> None:
    assert Exact().grade(said(text, reference)).score == score


def test_no_normal_form_has_more_or_fewer_words_than_its_text() -> None:
    """The grader counts words before it compares: no character may become white space, or stop to be it."""
    every = [chr(code) for code in range(sys.maxunicode + 1)]
    words, spaces = ("".join(one for one in every if one.isspace() == kind) for kind in (False, True))
    for other in (str.casefold, partial(unicodedata.normalize, "NFC"), partial(unicodedata.normalize, "NFD")):
        assert not any(map(str.isspace, other(words)))
        assert other(spaces).isspace()


WORDS = st.lists(
    st.sampled_from(["a", "B", "b", " ", "\n", "\u2000", "\u212a", "k", "e\u0301", "\u00e9", "\u1e9e", "ss"])
).map("".join)


@given(WORDS, WORDS | st.lists(WORDS, max_size=3), st.booleans(), st.booleans())
def test_an_answer_is_right_when_its_normal_form_is_that_of_a_reference(
    text: str, reference: str | list[str], case: bool, space: bool
) -> None:
    grader = Exact(case=case, space=space)
    wanted = reference if isinstance(reference, list) else [reference]
    right = any(grader.normal(one) == grader.normal(text) for one in wanted)
    assert grader.grade(said(text, reference)).score == (float(right) if wanted else None)


def test_case_and_space_can_be_made_to_count() -> None:
    assert build(Exact, ["case=true"]).grade(said("paris", "Paris")).score == 0.0
    assert build(Exact, ["space=true"]).grade(said("Paris ", "Paris")).score == 0.0
    assert build(Exact, ["space=true", "case=true"]).grade(said("Paris ", "Paris ")).score == 1.0


@pytest.mark.parametrize("reference", [None, [], {}, True, [[None]]])
def test_without_a_reference_there_is_no_score(reference: Any) -> None:
    grade = Exact().grade(said("Paris", reference))
    assert grade.score is None
    assert "reference" in grade.reason
    assert Exact().control(reference) is None


def test_constant_answers_that_count_as_one_are_one() -> None:
    assert Exact().control(" PARIS") == Exact().control(["paris", "Lutetia"])


def test_a_misspelt_setting_is_told_the_right_one() -> None:
    with pytest.raises(UsageError) as caught:
        build(Exact, ["cases=true"])
    assert "case" in caught.value.hint

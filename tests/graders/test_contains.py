"""`contains`: where the reference stands, and what is only a part of another word."""

from __future__ import annotations

from typing import Any

import pytest

from graders.contains import Contains
from hybrid.records import Output
from hybrid.settings import build


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("The capital is Paris.", "paris", 1.0),
        ("Paris", "Paris", 1.0),
        ("a catalogue", "cat", 0.0),
        ("a catalogue and a cat", "cat", 1.0),
        ("concatenate", "cat", 0.0),
        ("It costs $5.00 now", "$5.00", 1.0),
        ("C++ is it", "C++", 1.0),
        ("new\nyork city", "New York", 1.0),
        ("", "Paris", 0.0),
        ("Wien, of course", ["Vienna", "Wien"], 1.0),
        ("number 142", 42, 0.0),
        ("number 42", 42, 1.0),
    ],
)
def test_an_answer_is_right_when_the_reference_stands_in_it(text: str, reference: Any, score: float) -> None:
    assert Contains().grade(said(text, reference)).score == score


def test_parts_of_words_and_case_are_settings() -> None:
    assert build(Contains, ["words=false"]).grade(said("a catalogue", "cat")).score == 1.0
    assert build(Contains, ["case=true"]).grade(said("paris", "Paris")).score == 0.0


@pytest.mark.parametrize("reference", [None, "", "  ", [], ["", " "], {"a": 1}])
def test_what_every_answer_would_contain_gives_no_score(reference: Any) -> None:
    assert Contains().grade(said("anything", reference)).score is None


def test_an_empty_one_among_references_makes_nothing_right() -> None:
    assert Contains().grade(said("anything", ["", "Paris"])).score == 0.0


def test_a_long_answer_full_of_near_misses_takes_no_time() -> None:
    assert Contains().grade(said("catcat" * 200_000, "cat")).score == 0.0

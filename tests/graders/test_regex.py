"""`regex`: what fits, and which patterns are not let run."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.regex import Regex
from hybrid.errors import UsageError
from hybrid.grading.patterns import MOST_WAYS, BadPattern, ways
from hybrid.records import Output
from hybrid.settings import build


def said(text: str, reference: Any = None) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "pattern", "score"),
    [
        ("the answer is  Yes", r"answer is\s+(yes|Yes)\b", 1.0),
        ("no", r"yes", 0.0),
        ("line\nB", r"(?m)^\s*B\s*$", 1.0),
        ("colour", ["color", "colou?r"], 1.0),
        ("abcabc", r"^(abc)\1$", 1.0),
    ],
)
def test_the_reference_is_the_pattern(text: str, pattern: Any, score: float) -> None:
    assert Regex().grade(said(text, pattern)).score == score


def test_the_pattern_can_be_a_setting() -> None:
    grader = build(Regex, ["pattern=yes|ja", "case=false", "where=whole"])
    assert [grader.grade(said(text)).score for text in ("JA", "yes", "ja so")] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "pattern", ["(", "a{2,1}", "*", "a{1,99999999999}", "(?P<n>", "(" * 500 + ")" * 500, "x" * 2000]
)
def test_a_reference_that_does_not_compile_gives_no_score(pattern: str) -> None:
    grade = Regex().grade(said("text", pattern))
    assert grade.score is None
    assert len(grade.reason) < 200


@pytest.mark.parametrize("pattern", ["(", "(a+)+$"])
def test_a_bad_pattern_in_the_settings_is_a_usage_error(pattern: str) -> None:
    with pytest.raises(UsageError):
        build(Regex, [f"pattern={pattern}"])


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a*)*b",
        r"(a|aa)+$",
        r"([a-z]+\s?)*$",
        r"(?:a?){40}a{40}",
        "a?" * 40 + "a" * 40,
        r"(x+x+)+y",
        r"a*a*a*a*b",
        r"(?=(a+)+$)b",
    ],
)
def test_a_pattern_that_could_run_for_ever_gives_no_score_at_once(pattern: str) -> None:
    start = time.process_time()
    grade = Regex().grade(said("a" * 5000 + "!", pattern))
    assert grade.score is None
    assert "too long" in grade.reason
    assert time.process_time() - start < 2


def test_a_long_answer_is_not_graded() -> None:
    assert "longer than 10,000" in Regex().grade(said("a" * 10_001, "a")).reason
    assert build(Regex, ["longest=20000"]).grade(said("a" * 10_001, "a")).score == 1.0


def test_without_a_pattern_there_is_no_score() -> None:
    assert Regex().grade(said("a", None)).score is None


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab|()*+?{}12,^$.[]\\", max_size=14))
def test_whatever_is_let_run_ends_soon(pattern: str) -> None:
    text = "a" * 18 + "b" * 5 + "!"
    try:
        allowed = ways(pattern, len(text)) <= 10**5
    except BadPattern:
        return
    if allowed:
        start = time.process_time()
        Regex().grade(said(text, pattern))
        assert time.process_time() - start < 2
    assert MOST_WAYS > 10**5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "letters"),
    [
        ("a*b", 9_999),
        ("[ab]*[ab]*c", 460),
        ("(a?){20}b", 90),
        ("a?" * 20 + "b", 90),
        ("(a|a|a|a|a)" * 8 + "b", 240),
        ("a*" + "a" * 61 + "b", 9_999),
        ("a*" + "a" * 900 + "b", 1_850),
        ("a*a{900}b", 1_850),
    ],
)
def test_the_worst_pattern_that_is_let_run_takes_seconds(pattern: str, letters: int) -> None:
    assert MOST_WAYS / 2 < ways(pattern, letters) <= MOST_WAYS
    start = time.process_time()
    assert Regex().grade(said("a" * letters, pattern)).score == 0.0
    assert time.process_time() - start < 20  # 5 on a machine that does nothing else


@pytest.mark.parametrize("pattern", ["a*" + "a" * 900 + "b", "a*a{900}b"])
def test_long_fixed_parts_count(pattern: str) -> None:
    assert Regex().grade(said("a" * 9_999, pattern)).score is None


def test_the_control_is_an_answer_to_the_most_frequent_pattern() -> None:
    assert [Regex().control(one) for one in ("yes|ja", ["no", "x"], 5, None, [], "(", "(a+)+$")] == [
        "yes|ja",
        "no",
        "5",
        None,
        None,
        None,
        None,
    ]
    assert Regex(pattern="yes").control("yes") is None


def test_an_honest_pattern_in_the_settings_is_allowed() -> None:
    assert Regex(pattern=r"\s*answer\s*:\s*(\w+)").grade(said("answer: 5")).score == 1.0

"""`numeric`: which number counts, how it is read, and what equals what."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graders.numeric import Numeric, numbers
from hybrid.errors import UsageError
from hybrid.records import Output
from hybrid.settings import build


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10-3 = 7", ["10", "3", "7"]),
        ("it is -5", ["-5"]),
        ("\u22127 and +2", ["-7", "2"]),
        ("f(-3)", ["-3"]),
        ("$1,234,567.50.", ["1234567.50"]),
        ("1,23", ["1", "23"]),
        ("1,2,3", ["1", "2", "3"]),
        (".5 and 5.", ["0.5", "5"]),
        ("6.02e23 and 1E-3", ["6.02e23", "0.001"]),
        ("v1.2.3 or a5", []),
        ("10kg, 5%", ["10", "5"]),
        ("nan NaN inf -inf Infinity", []),
        ("1e99999999", []),
        ("٣", []),
        ("", []),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, found: list[str]) -> None:
    assert numbers(text) == [Decimal(number) for number in found]


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("so 3 + 4 makes 7.", "7", 1.0),
        ("7, because 3 + 4", "7", 0.0),
        ("1,000", "1000", 1.0),
        ("7.0", 7, 1.0),
        ("0.1", 0.1, 1.0),
        ("9007199254740993", "9007199254740992", 0.0),
        ("#### 12", "The sum is 5 + 7 = 12", 1.0),
        ("twelve", "12", 0.0),
        ("nan", "12", 0.0),
        ("2", ["1", "2"], 1.0),
    ],
)
def test_the_last_number_is_the_answer(text: str, reference: Any, score: float) -> None:
    assert Numeric().grade(said(text, reference)).score == score


def test_the_first_number_can_be_the_answer() -> None:
    assert build(Numeric, ["which=first"]).grade(said("7, because 3 + 4", "7")).score == 1.0


@pytest.mark.parametrize(
    ("setting", "text", "score"),
    [
        ("relative=0.01", "99.1", 1.0),
        ("relative=0.01", "98", 0.0),
        ("absolute=0.5", "100.5", 1.0),
        ("absolute=0.5", "100.51", 0.0),
    ],
)
def test_a_tolerance_is_a_setting(setting: str, text: str, score: float) -> None:
    assert build(Numeric, [setting]).grade(said(text, "100")).score == score


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_tolerance_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(UsageError):
        build(Numeric, [f"relative={value}"])


@pytest.mark.parametrize("reference", [None, "nan", "none", float("inf"), [], True])
def test_a_reference_without_a_number_gives_no_score(reference: Any) -> None:
    assert Numeric().grade(said("nan", reference)).score is None


def test_equal_numbers_are_one_constant_answer() -> None:
    assert Numeric().control("7.00") == Numeric().control(7)
    assert Numeric().control("seven") is None


def test_digits_without_end_take_no_time() -> None:
    assert Numeric().grade(said("1" * 2_000_000, "1")).score == 0.0
    assert Numeric().grade(said("1," * 500_000, "1")).score == 1.0


@given(st.text(alphabet="0123456789.,-+eE xN\u2212()", max_size=60), st.sampled_from([0.0, 0.5]))
def test_no_text_breaks_it(text: str, relative: float) -> None:
    assert Numeric(relative=relative).grade(said(text, "9e9999")).score in (0.0, 1.0)
    assert Numeric(relative=relative).grade(said("-9e9999", text)).score in (0.0, 1.0, None)

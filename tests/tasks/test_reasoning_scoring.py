"""Scoring of reasoning-gym's tasks: what is right is paid, what is not is not, and hostile answers cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import process_time
from typing import Any

import pytest

from hybrid.tasks.reasoning.answers import extract, first_opened, tagged
from hybrid.tasks.reasoning.generators import generators
from hybrid.tasks.reasoning.levels import TASKS
from hybrid.tasks.reasoning.questions import Question, question
from hybrid.tasks.reasoning.scoring import FULL, score, silent_score


def strict(one: Question, answer: str) -> int:
    return score(one, f"<answer>{answer}</answer>", "strict")


def paper(one: Question, answer: str) -> int:
    return score(one, f"<answer>{answer}</answer>", "paper")


def some(task: str, wanted: Callable[[Question], object], level: str = "paper") -> Question:
    """The first question that is wanted."""
    return next(one for one in (question(task, index, level) for index in range(5000)) if wanted(one))


def test_the_answer_is_in_the_last_complete_pair_of_tags() -> None:
    assert extract("<answer>5</answer>, no: <answer> 6\n</answer> <answer>7") == "6"
    assert extract("in <answer> tags: <answer>5</answer>") == "5"
    assert extract("<answer>5</answer> or so</answer>") == "5"
    assert extract("<answer></answer>") == ""
    assert [extract(text) for text in ("5", "<answer>5", "5</answer>", "</answer>5<answer>")] == [None] * 4
    assert first_opened("in <answer> tags: <answer>5</answer>") == "tags: <answer>5"
    assert tagged("<answer>5</answer>")
    assert not tagged("<answer>5")


def test_a_megabyte_of_tags_is_read_in_no_time() -> None:
    began = process_time()
    for text in (
        "<answer>" * 130_000,
        "</answer>" * 120_000,
        "<answer>" * 65_000 + "</answer>" * 60_000,
        "<" * 1_000_000,
    ):
        assert (extract(text) or "") == ""
        first_opened(text)
    assert process_time() - began < 30  # seconds; every pair of tags compared would take hours


RIGHT = ("513", " 513 ", "513.", "513.0", "+513", "0513", "$513$", "5.13e2")
WRONG = (
    "",
    "512",
    "513 or 512",
    "5 1 3",
    "513x",
    "-513",
    "5,13",
    "513\n512",
    "Ⅴ",
    "1026/2",
    "9**9**9",
    "nan",
    "inf",
    "1e99999",
)


@pytest.mark.parametrize("answer", [*RIGHT, *WRONG])
def test_a_number_is_right_by_its_value(answer: str) -> None:
    one = Question("basic_arithmetic", 0, "paper", "Calculate 500 + 13.", "513", {})
    assert strict(one, answer) == FULL * (answer in RIGHT)


def test_thousands_and_signs_are_read() -> None:
    one = Question("basic_arithmetic", 0, "paper", "", "-12345", {})
    assert strict(one, "-12,345") == strict(one, "−12345") == strict(one, "'-12345'") == FULL
    assert strict(one, "-12,34,5") == 0


def test_a_decimal_must_have_every_digit() -> None:
    """reasoning-gym pays 1 for what is off by 0.001, and its own last digits come of rounding after every operation."""
    one = some("decimal_arithmetic", lambda one: one.metadata["rounded"] != one.answer)
    assert strict(one, one.answer) == strict(one, str(one.metadata["rounded"])) == FULL
    near = str(float(one.answer) + 0.0009)
    assert (strict(one, near), paper(one, near)) == (0, FULL)
    assert paper(one, str(float(one.answer) + 0.002)) == 0


def test_a_weekday_is_right_in_small_letters_and_with_a_full_stop() -> None:
    one = some("calendar_arithmetic", lambda one: one.answer == "Wednesday")
    assert {strict(one, text) for text in ("Wednesday", "wednesday", "Wednesday.", "WEDNESDAY")} == {FULL}
    assert {strict(one, text) for text in ("Wed", "Tuesday", "Tuesday, Wednesday", "Wednesdays")} == {0}
    assert [paper(one, text) for text in ("Wednesday", "Tuesday", "wednesday", "Wednesday.")] == [FULL, 1000, 500, 0]


def test_a_count_is_right_or_not_and_in_the_paper_nearly_right() -> None:
    one = some("calendar_arithmetic", lambda one: one.answer == "10")
    assert [strict(one, text) for text in ("10", "10.", "11")] == [FULL, FULL, 0]
    assert [paper(one, text) for text in ("10", "11", "9" * 400, "9" * 5000)] == [FULL, 6065, 0, 0]


def test_a_leap_year_is_a_yes_or_a_no() -> None:
    one = some("calendar_arithmetic", lambda one: one.answer == "No")
    assert [strict(one, text) for text in ("No", "no.", "Yes", "No, it is not")] == [FULL, FULL, 0, 0]
    assert [paper(one, text) for text in ("No", "no", "no.")] == [FULL, FULL, 0]


def test_a_fraction_is_right_in_its_lowest_terms_only() -> None:
    one = some("fraction_simplification", lambda one: one.metadata["factor"] > 1)
    known = one.metadata
    low, unreduced = (
        f"{known[first]}/{known[second]}"
        for first, second in (("simplified_numerator", "simplified_denominator"), ("numerator", "denominator"))
    )
    latex = "\\frac{{{}}}{{{}}}".format(*low.split("/"))
    assert [strict(one, text) for text in (low, f"${low}$", latex, f"${latex}$", low.replace("/", " / "))] == [FULL] * 5
    assert [strict(one, text) for text in (unreduced, "", "1/0", low + "/1", f"{low} = {low}")] == [0] * 5
    assert [paper(one, text) for text in (low, unreduced, "3/4", "", "rubbish")] == [FULL, 1000, 500, 100, 100]
    assert score(one, "no tags", "paper") == score(one, "", "paper") == silent_score(one.task, "paper") == 100
    assert score(one, "no tags", "strict") == silent_score(one.task, "strict") == 0


def test_a_number_in_another_base_is_right_by_its_value() -> None:
    one = some("base_conversion", lambda one: one.metadata["target_base"] == 16 and one.metadata["decimal_value"] > 255)
    right = (one.answer, one.answer.upper(), "0x" + one.answer, "0" + one.answer, one.answer + ".")
    assert {strict(one, text) for text in right} == {FULL}
    assert {strict(one, text) for text in (str(one.metadata["decimal_value"]), one.answer + "0", "-" + one.answer)} == {
        0
    }
    two = some("base_conversion", lambda one: one.metadata["target_base"] == 2)
    assert strict(two, "0b" + two.answer) == FULL
    assert strict(two, two.answer.replace("0", "2") + "2") == 0
    assert paper(one, one.answer + "\n") == FULL  # it is stripped first
    assert paper(one, one.answer + "!" * len(one.answer)) == FULL // 2


def test_a_row_is_right_with_commas_and_in_brackets() -> None:
    one = question("arc_1d", 1)
    cells = one.answer.split()
    assert {strict(one, text) for text in (", ".join(cells), f"[{', '.join(cells)}]", "\n".join(cells))} == {FULL}
    assert {
        strict(one, text) for text in (one.answer + " 0", "".join(cells), ", ".join(cells[1:]), f"[{one.answer}")
    } == {0}


def test_a_matrix_is_right_as_lines_and_as_lists() -> None:
    """reasoning-gym evaluates the answer as Python, and pays a tenth for lists."""
    one = some("binary_matrix", lambda one: one.metadata["n"] == 4)
    rows = one.metadata["solution"]
    lists, spaced = str(rows), one.answer.replace(" ", "  ").replace("\n", " \n")
    assert [strict(one, text) for text in (one.answer, spaced, one.answer.replace(" ", ", "), lists)] == [FULL] * 4
    assert [paper(one, text) for text in (one.answer, spaced, lists, lists.replace(" ", ""))] == [FULL, 0, 1000, 1000]
    code = f"__import__('os').abort() or {lists}"
    flat = one.answer.replace("\n", " ")
    assert {strict(one, text) for text in (code, flat, lists[:-1], f"[{lists}]", "[[1]]")} == {0}
    assert paper(one, code) == 0


def test_a_conclusion_is_right_when_it_follows_and_says_something() -> None:
    """reasoning-gym has no answer to compare with; it pays 0.25 for a tautology and 0.05 for any text."""
    one = some("propositional_logic", lambda one: "P" in one.metadata["premises"])
    assert [strict(one, text) for text in ("P", "(P)", "¬¬P", "P.", "P ∨ Q", "P ∧ (Q → Q)")] == [FULL] * 6
    wrong = ("¬P", "P ∨ ¬P", "xyz", "p", "(P", "P ∧", "", "Z", "P or Q", "P ∨ x")
    assert [strict(one, text) for text in wrong] == [0] * len(wrong)
    assert [paper(one, text) for text in ("P", "P ∨ Q", "P ∨ ¬P", "xyz", "Z", "P ∧", "")] == [
        2500,
        FULL,
        2500,
        500,
        0,
        0,
        0,
    ]


def test_implications_are_read_as_logicians_do() -> None:
    known = {"variables": ["P", "Q", "R"], "premises": ["¬P", "¬R"]}
    one = Question("propositional_logic", 0, "paper", "", "", known)
    assert strict(one, "P → Q → R") == FULL  # P → (Q → R)
    assert paper(one, "P → Q → R") == 500  # (P → Q) → R


HOSTILE = [
    "9**9**9", "__import__('os').abort()", "\0", "\ud800", "sNaN", "1e999999999", "1" + "0" * 300 + ".5", "٣", "Ⅷ",
    "(" * 100_000, "[" * 100_000, "¬" * 100_000, "-" * 100_000, "(P" * 90, "¬" * 199 + "P", "P∧" * 500_000,
    "9" * 1_000_000, "1/" + "9" * 1_000_000, "0x" * 400_000, "1 " * 500_000, "\\frac{1}{" + " " * 1_000_000,
    "[[1,2],[" * 20_000, "[[" + "1," * 490 + "]]", "İ" * 300_000, "$" * 1_000_000, "." * 1_000_000, '"' * 999,
    "a∧b∧c∧d∧e∧f∧g∧h∧i∧j∧k∧l∧m∧n∧o∧p∧q∧r∧s∧t∧u∧v∧w∧x∧y∧z",
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_hostile_answers_score_next_to_nothing_in_bounded_time(task: str) -> None:
    one = question(task, 11)
    began = process_time()
    for text in HOSTILE:
        assert strict(one, text) == 0, text[:50]
        assert paper(one, text) <= FULL // 20, text[:50]
        assert score(one, text, "strict") == 0
    assert process_time() - began < 30  # seconds: hours and gigabytes for who evaluates, or lists what n names may be


def tried(one: Question, entry: dict[str, Any]) -> Iterator[str]:
    """Answers of all kinds, which reasoning-gym's verifier can be handed."""
    answer = one.answer
    yield from (
        answer,
        answer + " or so",
        f"it is {answer}.",
        answer[:-1],
        answer.upper(),
        answer.title(),
        answer.lower(),
    )
    yield from (
        "",
        " ",
        "0",
        "1",
        "-1",
        "7",
        "7.0",
        "12",
        "3/4",
        "6 / 8",
        "$1/2$",
        "\\frac{1}{2}",
        "\\dfrac {3} {4}x",
        "1/x",
        "a/b/c",
    )
    yield from (
        "Monday",
        "monday",
        "SUNDAY",
        "Sunday.",
        "yes",
        "No",
        "no.",
        "1e1",
        "NaN",
        "1_0",
        "+5",
        "xyz",
        "Infinity",
    )
    yield from (
        "P",
        "¬P",
        "P ∨ ¬P",
        "(P ∧ Q)",
        "P → Q → R",
        "Q ↔ P ∨ R ∧ ¬Q",
        "((P))",
        "(P",
        "P ∧",
        "()",
        "P Q",
        "¬¬R",
        "Z",
        "q ∨ P",
    )
    yield from ("[[0, 1], [1, 0]]", "[[0,1],]", str(entry["metadata"].get("solution", "[[0]]")))
    known = entry["metadata"]
    if "numerator" in known:
        yield from (
            f"{known['numerator']}/3",
            f"3/{known['denominator']}",
            f"{known['numerator']}/{known['denominator']}",
        )
    if answer.replace(".", "").lstrip("-").isdigit():
        yield from (str(float(answer) + off) for off in (0.0005, 0.001, 0.0011, 1, 2, -5))


@pytest.mark.parametrize("task", TASKS)
def test_the_paper_scoring_is_that_of_reasoning_gym(task: str) -> None:
    """Its own verifier is asked here, with answers that it can bear."""
    generator = generators()[task, "paper"]
    for index in range(60):
        one = question(task, index)
        entry = generator[one.metadata["source_index"]]
        for text in tried(one, entry):
            stripped = text.strip()
            assert paper(one, text) == round(FULL * generator.score_answer(stripped, entry)), (text, one)
        absent = generator.score_answer(None, entry)
        assert score(one, "no tags", "paper") == silent_score(task, "paper") == round(FULL * absent)

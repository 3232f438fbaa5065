"""Writing grids and questions, and the strict readers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.text import FORMATS, MAX_TEXT, messages, parse, token_bound

GRID: Grid = ((0, 1, 2), (3, 4, 5))
PAIRS = [(GRID, ((7,),)), (((1, 1),), ((8, 9),))]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    row = st.lists(st.integers(0, 9), min_size=width, max_size=width).map(tuple)
    return tuple(draw(st.lists(row, min_size=height, max_size=height)))


@pytest.mark.slow
@given(grids())
def test_seals_text_is_what_numpy_prints(grid: Grid) -> None:
    assert FORMATS["seal"].write(grid) == str(np.array(grid))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 30), (30, 1), (30, 30)])
def test_seals_text_is_what_numpy_prints_at_the_edges(height: int, width: int) -> None:
    assert FORMATS["seal"].write(((5,) * width,) * height) == str(np.full((height, width), 5))


@pytest.mark.slow
@given(grids(), st.sampled_from(sorted(FORMATS)))
def test_every_grid_is_read_back(grid: Grid, format: str) -> None:
    written = FORMATS[format].write(grid)
    assert len(written) <= MAX_TEXT
    assert parse(written, format) == (grid, "")
    assert parse(f"\n {written}\n", format) == (grid, "")


def test_without_a_format_the_bracket_decides() -> None:
    assert parse("[[0 1 2]\n [3 4 5]]") == parse("012\n345") == (GRID, "")


@pytest.mark.parametrize(
    "answer",
    ["[[0 1 2]\n [3 4 5]]#", "[[0 1 2]\n[3 4 5]]", "[[0  1 2]\n [3 4 5]]", "[[ 0 1 2 ]\r\n  [ 3 4 5 ]]\n#\n"],
)
def test_blanks_around_cells_do_no_harm_in_seals_format(answer: str) -> None:
    assert parse(answer, "seal") == (GRID, "")


@pytest.mark.parametrize(
    "answer",
    [
        "[[0 1 2]\n [3 4 5]]#[[9]]",
        "[[0 1 2]\n [3 4 5]] # and so on" + " and on" * MAX_TEXT,
        "[[0 1 2]\n [3 4 5]]#\n[[0 1 2]\n [3 4 5]]#",
        "[[00 01 2]\n [3 0004 05]]",
        "[[0   1 2]\n [  3 4   5 ]]",
        "[[0\t1 2]\n [3 4\t5]]",
        "[ [0 1 2]\n  [3 4 5] ]",
        "[\n  [0 1 2]\n  [3 4 5]\n]#",
    ],
)
def test_an_answer_ends_at_its_mark_and_is_read_as_numbers_between_blanks(answer: str) -> None:
    assert parse(answer, "seal") == parse(answer) == (GRID, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("#", "empty"),
        ("[[]]", "no cells"),
        ("[]", "not one whole grid"),
        ("[", "not one whole grid"),
        ("[[", "not one whole grid"),
        ("[0 1]", "not one whole grid"),
        ("[[[0 1]]]", "not one whole grid"),
        ("[[]\n []]", "no cells"),
        ("[[0 1 2]\n [3 4]]", "ragged rows"),
        ("[[0 1 2]\n [3]\n [4 5]]", "ragged rows"),  # SEAL reads six cells in three rows
        ("[[0 1\n 2 3]\n [4 5 6 7]]", "not one whole grid"),  # a stray newline turns SEAL's rows around
        ("[[0 1 2]\n [3 4 5", "not one whole grid"),  # cut
        ("[[0 1 2]", "not one whole grid"),
        ("[[300 1]]", "colour over 9"),  # SEAL reads 44
        ("[[10]]", "colour over 9"),
        ("[[12 3]]", "colour over 9"),
        ("[[-1 0]]", "not one whole grid"),
        ("[[0, 1], [2, 3]]", "not one whole grid"),
        ("[[0 1]\n\n [2 3]]", "not one whole grid"),
        ("```\n[[0 1]]\n```", "not one whole grid"),
        ("The answer is [[0 1]]", "not one whole grid"),
        ("# [[0 1]]", "empty"),
        ("[[0 1#]]", "not one whole grid"),
        ("[[010 1]]", "colour over 9"),
        ("[[01 x]]", "not one whole grid"),
        ("[[0 1\n]]", "not one whole grid"),
        ("[[0 1]] [[0 1]]", "not one whole grid"),
        ("[[٣ 1]]", "not one whole grid"),  # a digit, not an ASCII one
        ("[[0 1]\n [x 1]]", "not one whole grid"),
        ("[[" + "1 " * 30 + "1]]", "side over 30"),
        ("[[1]" + "\n [1]" * 30 + "]", "side over 30"),
        ("[[" + "1 " * 4096 + "1]]", "too long"),
        ("\udcff[[1]]", "not one whole grid"),
    ],
)
def test_what_is_no_grid_in_seals_format_is_refused_with_a_reason(answer: str, reason: str) -> None:
    assert parse(answer, "seal") == (None, reason)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("012\n34", "ragged rows"),
        ("012\n\n345", "ragged rows"),
        ("0 1 2\n3 4 5", "not one whole grid"),
        ("0,1", "not one whole grid"),
        ("```\n01\n```", "not one whole grid"),
        ("012 \n345", "not one whole grid"),
        ("²1", "not one whole grid"),
        ("01\x0001", "not one whole grid"),
        ("1" * 31, "side over 30"),
        ("1\n" * 31, "side over 30"),
        ("1" * 5000, "too long"),
        ("\ud800", "not one whole grid"),
    ],
)
def test_what_is_no_grid_in_the_compact_format_is_refused_with_a_reason(answer: str, reason: str) -> None:
    assert parse(answer, "compact") == (None, reason)


@given(st.text(alphabet="[] 0123456789\n#,x\r", max_size=60), st.sampled_from(["", *sorted(FORMATS)]))
def test_whatever_is_read_is_a_real_grid(answer: str, format: str) -> None:
    grid, reason = parse(answer, format)
    assert (grid is None) == bool(reason)
    if grid is not None:
        assert len({len(row) for row in grid}) == 1
        assert all(0 <= cell <= 9 for row in grid for cell in row)
        said = answer.partition("#")[0] if format != "compact" else answer
        digits = [int(cell) for cell in re.findall("[0-9]+" if "[" in said else "[0-9]", said)]
        assert digits == [cell for row in grid for cell in row]


def test_seals_question_is_the_published_text() -> None:
    system, user = messages("seal", PAIRS, ((3, 3), (4, 4)))
    assert (system.role, user.role) == ("system", "user")
    assert system.content == (
        "Figure out the underlying transformation in the following examples and apply it to the test case. Here are "
        "some examples from this transformation, your answer must follow the format.\nThe input-output grids are "
        "provided as python arrays:\n[[0 1 2]\n [3 4 5]] -> [[7]]#\n[[1 1]] -> [[8 9]]#\n"
    )
    assert user.content == "[[3 3]\n [4 4]] -> "


def test_the_compact_question_shows_demonstrations_as_turns() -> None:
    asked = messages("compact", PAIRS, ((3, 3), (4, 4)))
    assert [message.role for message in asked] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [message.content for message in asked[1:]] == ["012\n345", "7", "11", "89", "33\n44"]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_own_instruction_takes_the_place_of_the_formats(format: str) -> None:
    system = messages(format, PAIRS, GRID, "Do this.")[0].content
    assert system.startswith("Do this.")
    assert FORMATS[format].instruction not in system


def test_the_token_bound_doubles_what_the_demonstrations_let_expect() -> None:
    pairs: list[tuple[Grid, Grid]] = [(((0,) * 2,) * 2, ((0,) * 4,) * 2)]  # twice as wide
    assert token_bound("compact", pairs, ((0,) * 3,) * 3) == 8 + max(6 * 13, 12 * 7) - 1


def test_the_token_bound_is_never_over_the_largest_grid() -> None:
    big: Grid = ((0,) * 30,) * 30
    for format, form in FORMATS.items():
        assert token_bound(format, [(((0,),), big)], big) == 8 + len(form.write(big))


def test_the_largest_texts_are_as_documented() -> None:
    big: Grid = ((0,) * 30,) * 30
    assert {name: len(form.write(big)) for name, form in FORMATS.items()} == {"seal": 1890, "compact": 929}

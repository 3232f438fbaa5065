"""`rouge`: the library's numbers, and what the library cannot see or bear."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.rouge import MOST_WORDS, Rouge
from hybrid.errors import CannotRun
from hybrid.machine.late_imports import import_object
from hybrid.records import Output
from hybrid.settings import build
from hybrid.testing import check_grader

pytestmark = pytest.mark.skipif(find_spec("rouge_score") is None, reason="needs rouge-score: pip install rouge-score")


def said(text: str, reference: Any) -> Output:
    return Output("k", "t", "t/0", {}, 0, text, None, reference)


@pytest.mark.parametrize(
    ("text", "kind", "score"),
    [
        ("the cat sat on the mat", "rougeL", 1.0),
        ("The cat SAT, on the mat!", "rouge2", 1.0),
        ("the mat sat on the cat", "rouge1", 1.0),
        ("the mat sat on the cat", "rouge2", 0.8),
        ("the mat sat on the cat", "rougeL", 2 / 3),
        ("a dog", "rougeL", 0.0),
        ("", "rougeL", 0.0),
        ("cat", "rouge2", 0.0),
    ],
)
def test_words_pairs_and_order(text: str, kind: Literal["rouge1", "rouge2", "rougeL"], score: float) -> None:
    grade = Rouge(kind=kind).grade(said(text, "the cat sat on the mat"))
    assert grade.score == pytest.approx(score)
    assert set(grade.figures) == {"rouge1", "rouge2", "rougeL"} - {kind}


def test_endings_count_unless_the_stemmer_is_on() -> None:
    output = said("running horses", "runs horse")
    assert Rouge().grade(output).score == 0.0
    assert build(Rouge, ["stemmer=true"]).grade(output).score == 1.0


def test_each_kind_takes_the_reference_that_fits_it_best() -> None:
    grade = Rouge(kind="rouge1").grade(said("b a d c", ["a b c d", "b a x y"]))
    assert grade.score == 1.0
    assert grade.figures["rouge2"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("reference", [None, [], {"a": 1}, "", "...", "\u6771\u4eac"])
def test_a_reference_without_a_word_that_rouge_sees_gives_no_score(reference: Any) -> None:
    assert Rouge().grade(said("\u6771\u4eac", reference)).score is None


def test_texts_that_are_too_long_to_compare_are_ungraded_at_once() -> None:
    for text in ("word " * 200_000, "[[" + "1," * 50_000):
        start = time.process_time()
        grade = Rouge(stemmer=True).grade(said(text, "a word"))
        assert grade.score is None
        assert "too long" in grade.reason
        assert time.process_time() - start < 5
    half = "word " * (MOST_WORDS // 2)
    assert Rouge().grade(said(half, half)).score == 1.0


@pytest.mark.parametrize("stemmer", [False, True])
def test_it_survives_any_text(stemmer: bool) -> None:
    check_grader(Rouge(stemmer=stemmer), ["the cat", 7], right="The cat.")


@settings(deadline=None)
@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
def test_it_is_what_the_library_says(text: str, reference: str) -> None:
    grade = Rouge().grade(said(text, reference))
    scorer = import_object("rouge_score.rouge_scorer:RougeScorer", needed_for="this test")
    if grade.score is not None:
        assert grade.score == pytest.approx(scorer(["rougeL"]).score(reference, text)["rougeL"].fmeasure)


def test_a_missing_library_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import graders.rouge
    import hybrid.machine.late_imports

    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    graders.rouge._scorer.cache_clear()
    monkeypatch.setattr(hybrid.machine.late_imports.importlib, "import_module", absent)
    with pytest.raises(CannotRun, match="rouge_score") as caught:
        build(Rouge)
    assert ".[rouge]" in caught.value.hint

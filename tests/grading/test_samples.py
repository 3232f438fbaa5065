"""Several samples of a prompt: the estimators agree with counting all subsets, and the votes with a plain count."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graders.exact import Exact
from graders.f1 import F1
from graders.numeric import Numeric
from hybrid.grading.grade_file import grade_file, mean_grade
from hybrid.grading.samples import best_of, sample_figures, sizes, usual_vote
from hybrid.grading.summary import Reasons
from hybrid.outputs import write_outputs
from hybrid.records import Failure, Grade, Output


def output(sample: int, text: str | None, reference: object = "4", question: str = "t/0") -> Output:
    error = None if text is not None else Failure("engine", "it stopped")
    return Output(f"{question}-{sample}", "t", question, {}, sample, text, error, reference)


def graded(texts: Sequence[str], scores: Sequence[float | None]) -> list[tuple[Output, Grade]]:
    return [
        (output(n, text), Grade(score, "" if score is not None else "unclear"))
        for n, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=7), st.data())
def test_the_best_of_k_is_the_mean_over_all_subsets(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    subsets = list(itertools.combinations(scores, k))
    assert best_of(sorted(scores), k) == pytest.approx(sum(map(max, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_is_the_published_estimator() -> None:
    """The product form of Chen et al. 2021, figure 3, written without its numpy."""
    for n, c, k in [(5, 2, 2), (10, 1, 10), (200, 3, 100), (9, 0, 4), (8, 8, 2), (10_000, 17, 4096)]:
        expected = 1.0
        for i in range(n - c + 1, n + 1):
            expected *= max(0.0, 1.0 - k / i)
        assert best_of([0.0] * (n - c) + [1.0] * c, k) == pytest.approx(1.0 - expected, abs=1e-9)


def test_the_reason_of_samples_without_a_score_is_that_of_one_which_should_have_had_one() -> None:
    class Rounds:
        def grade(self, output: Output) -> Grade:
            control = output.text == "control"
            return Grade(None, "of the control" if control else "no number", due=not control)

    control, answer, ungraded = output(0, "control"), output(1, "none"), Reasons()
    assert mean_grade(Rounds(), [control, answer], ungraded, usual_vote) == Grade(None, "no number")
    assert ungraded.summary() == {"count": 1, "reasons": {"no number": 1}}
    assert mean_grade(Rounds(), [control, control], Reasons(), usual_vote) == Grade(None, "of the control", due=False)


def test_sizes_are_powers_of_two_and_all_samples() -> None:
    assert [sizes(n) for n in (2, 3, 4, 5, 9)] == [(2,), (2, 3), (2, 4), (2, 4, 5), (2, 4, 8, 9)]


def test_the_majority_is_counted_over_normal_answers_and_a_tie_goes_to_the_first() -> None:
    figures = sample_figures(
        graded(["The cat!", "dog", "a cat", "Dog", "bird"], [1.0, 0.0, 1.0, 0.0, 0.0]), 5, usual_vote
    )
    assert figures == {
        "pass@2": 0.7, "pass@4": 1.0, "pass@5": 1.0, "majority@2": 1.0, "majority@4": 1.0, "majority@5": 1.0,
        "agreement": 0.4, "spread": pytest.approx(0.547722557505),
    }  # fmt: skip
    reordered = graded(["dog", "The cat!", "a cat", "Dog", "bird"], [0.0, 1.0, 1.0, 0.0, 0.0])
    assert sample_figures(reordered, 5, usual_vote)["majority@5"] == 0.0
    assert sample_figures(list(reversed(reordered)), 5, usual_vote)["majority@5"] == 0.0  # by sample, not by place


def test_one_sample_and_views_that_are_no_samples_have_no_figures() -> None:
    assert sample_figures(graded(["a"], [1.0]), 1, usual_vote) == {}
    views = [(output(0, "a"), Grade(1.0)), (output(0, "b"), Grade(0.0))]
    assert sample_figures(views, 2, usual_vote) == {}


def test_answers_that_nobody_can_grade_count_in_no_estimate_but_vote() -> None:
    figures = sample_figures(graded(["a", "a", "b", "b", "b"], [1.0, 1.0, 0.0, None, None]), 5, usual_vote)
    assert figures["pass@2"] == 1.0
    assert figures["majority@5"] == 0.0
    unclear = sample_figures(graded(["b", "b", "a", "a", "c"], [None, None, 1.0, 1.0, None]), 5, usual_vote)
    assert "majority@5" not in unclear  # what most say has no score
    assert "pass@5" not in figures


def test_a_vote_for_a_number_is_the_number() -> None:
    vote = Numeric().vote
    assert [vote(text) for text in ("so 4", "It is 4.0", "1 then 40e-1", "none")] == ["4", "4", "4", None]
    assert Exact(case=True).normal("A  b") == "A b"


def test_every_grader_of_single_outputs_has_the_figures_of_samples(tmp_path: Path) -> None:
    texts = {"t/0": ["4", "so 4", None, "5"], "t/1": ["5", "5", "4", "5"]}
    outputs = [output(n, text, "4", question) for question, said in texts.items() for n, text in enumerate(said)]
    write_outputs(tmp_path / "o.json", {}, [], {"t": {}}, iter(outputs), tmp_path)
    summary = grade_file(tmp_path / "o.json", Numeric(), "numeric", tmp_path / "g.json")
    figures = {name: (value["mean"], value["n"]) for name, value in summary["figures"].items()}
    assert summary["score"] == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert figures["pass@2"] == (pytest.approx((1.0 + 0.5) / 2), 2)
    assert figures["pass@4"] == (1.0, 1)  # the other question has a failed sample
    assert "pass@3" not in figures
    assert figures["majority@4"] == (0.0, 1)
    assert figures["agreement"] == (pytest.approx((2 / 3 + 3 / 4) / 2), 2)
    rows = json.loads((tmp_path / "g.json").read_text())["grades"]
    assert rows[0]["figures"]["majority@2"] == 1.0
    words = grade_file(tmp_path / "o.json", F1(), "f1", tmp_path / "f.json")
    assert words["figures"]["pass@2"]["mean"] == pytest.approx(mean([(1.0 + 2 / 3 + 1.0) / 3, 0.5]))

"""Scores of classifiers, beside scikit-learn's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.statistics import classification

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=60)
@given(ROWS)
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_they_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, answers = ([row[side] for row in rows] for side in (0, 1))
    assert classification.accuracy(truth, answers) == pytest.approx(metrics.accuracy_score(truth, answers))
    mcc = classification.mcc(truth, answers)
    assert (0.0 if mcc is None else mcc) == pytest.approx(metrics.matthews_corrcoef(truth, answers), abs=1e-12)
    binary = [[label % 2 for label in one] for one in (truth, answers)]
    expected = metrics.f1_score(*binary, pos_label=1, labels=[0, 1], zero_division=0.0)
    assert (classification.f1(*binary) or 0.0) == pytest.approx(expected)
    met = sorted({*truth, *answers})
    expected = metrics.f1_score(truth, answers, labels=met, average="macro", zero_division=0.0)
    assert (classification.f1(truth, answers, 4) or 0.0) == pytest.approx(expected)


def test_what_is_not_defined_has_no_value() -> None:
    assert classification.mcc([1, 1], [0, 1]) is None
    assert classification.mcc([0, 1, 1], [1, 1, 1]) == 0.0, "a classifier that always says the same is worth nothing"
    assert classification.f1([0, 0], [0, 0]) is None
    with pytest.raises(ValueError, match="0 true labels"):
        classification.accuracy([], [])

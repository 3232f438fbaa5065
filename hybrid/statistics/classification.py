"""How well a classifier answers: accuracy, F1, Matthews correlation, and what the most frequent label would get."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

Labels = Sequence[int]


def accuracy(truth: Labels, answers: Labels) -> float:
    """The share of answers that are right. Raises ValueError for no rows."""
    _check(truth, answers)
    return sum(map(int.__eq__, truth, answers)) / len(truth)


def f1(truth: Labels, answers: Labels, labels: int = 2) -> float | None:
    """F1 of label 1 in a task of two labels, in one of more the mean over its labels (macro).

    A label that is neither right nor given has no F1; None when there is none with one.
    """
    _check(truth, answers)
    if labels == 2:
        return _f1_of(1, truth, answers)
    found = [value for label in range(labels) if (value := _f1_of(label, truth, answers)) is not None]
    return fmean(found) if found else None


def mcc(truth: Labels, answers: Labels) -> float | None:
    """Matthews correlation of any number of labels (Gorodkin 2004), -1 to 1; None where the truth is all one label.

    Where the answers are all one label it is 0, its limit (Chicco and Jurman 2020) and what scikit-learn gives: without
    a value, the means over clients would be of those alone that learned something.
    """
    _check(truth, answers)
    n, right = len(truth), sum(map(int.__eq__, truth, answers))
    of_truth, of_answers = Counter(truth), Counter(answers)
    both = sum(of_truth[label] * of_answers[label] for label in of_truth)
    spread = (n * n - sum(count**2 for count in of_truth.values()), n * n - sum(c**2 for c in of_answers.values()))
    if not spread[0]:
        return None
    return (n * right - both) / math.sqrt(spread[0] * spread[1]) if spread[1] else 0.0


def _f1_of(label: int, truth: Labels, answers: Labels) -> float | None:
    right = sum(one == label == other for one, other in zip(truth, answers, strict=True))
    given = sum(one == label for one in truth) + sum(one == label for one in answers)
    return 2 * right / given if given else None


def _check(truth: Labels, answers: Labels) -> None:
    if not truth or len(truth) != len(answers):
        raise ValueError(f"{len(truth)} true labels and {len(answers)} answers")

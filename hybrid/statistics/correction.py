"""Estimate the true share of right answers from the verdicts of an imperfect judge: Rogan and Gladen 1978.

The interval is that of Lang and Reiczigel 2014 (Preventive Veterinary Medicine 113, 13-22): it combines the sampling
error of the score with that of the judge's sensitivity and specificity.
"""

from __future__ import annotations

import math

from hybrid.statistics.agreement import ConfusionTable, Estimate
from hybrid.statistics.intervals import Z

LEAST = 0.1
"""The least Youden index (sensitivity + specificity - 1) of a judge; with a lower one nothing is corrected."""


def corrected(score: float, n: float, check: ConfusionTable) -> Estimate | None:
    """The estimated true share for `score`, the mean of `n` (effective) verdicts of a judge with the errors in `check`.

    None when the check has no right or no wrong rows, or when the judge is hardly better than chance (LEAST).
    """
    right, wrong = check.true_right + check.false_wrong, check.true_wrong + check.false_right
    if not right or not wrong or n <= 0:
        return None
    told = check.true_right / right + check.true_wrong / wrong - 1
    if told < LEAST:
        return None
    low, high = _interval(score, n, check, right, wrong)
    value = min(1.0, max(0.0, (score + check.true_wrong / wrong - 1) / told))
    return Estimate(value, min(low, value), max(high, value))


def _interval(score: float, n: float, check: ConfusionTable, right: float, wrong: float) -> tuple[float, float]:
    square = Z * Z
    share = (n * score + square / 2) / (n + square)
    sensitivity, specificity = (check.true_right + 1) / (right + 2), (check.true_wrong + 1) / (wrong + 2)
    told = sensitivity + specificity - 1
    if told <= 0:
        return 0.0, 1.0
    middle = (share + specificity - 1) / told
    by_right = sensitivity * (1 - sensitivity) / (right + 2)
    by_wrong = specificity * (1 - specificity) / (wrong + 2)
    shift = 2 * square * (middle * by_right - (1 - middle) * by_wrong)
    spread = share * (1 - share) / (n + square) + middle**2 * by_right + (1 - middle) ** 2 * by_wrong
    half = Z * math.sqrt(spread) / told
    return min(1.0, max(0.0, middle + shift - half)), min(1.0, max(0.0, middle + shift + half))

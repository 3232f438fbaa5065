"""Advantages of a group of answers to one question (GRPO), by exact arithmetic.

Rewards are whole numbers of 1/10,000, and mean and variance are exact fractions that are rounded once. So equal
rewards are equal: of eight times 0.1 the mean in floating point is not 0.1, and with a small divisor eight equal
answers get an advantage of -0.7 each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ONE = 10_000
"""The reward of a right answer."""
EPSILON = 1e-4
"""Added to the standard deviation, in units of a right answer."""


def is_dead(rewards: Sequence[int]) -> bool:
    """Whether all rewards are the same, so that nothing is learnt from the group; one answer alone is dead, too."""
    return not rewards or max(rewards) == min(rewards)


def advantages(rewards: Sequence[int], *, scaled: bool = True) -> tuple[float, ...] | None:
    """Reward - mean of each, over the standard deviation (n - 1) + `EPSILON` when `scaled`; None for a dead group.

    `scaled=False`: not divided, as in Dr. GRPO (Liu et al. 2025).
    """
    if is_dead(rewards):
        return None
    n, total = len(rewards), sum(rewards)
    deviations = [n * reward - total for reward in rewards]  # exact: n * ONE times the deviation from the mean
    spread = math.sqrt(sum(one * one for one in deviations) / (n * n * (n - 1) * ONE * ONE))
    divisor = spread + EPSILON if scaled else 1.0
    return tuple(one / (n * ONE) / divisor for one in deviations)


def mean_reward(groups: Sequence[Sequence[int]]) -> float:
    """The mean over all answers of the groups, in units of a right answer; 0 for none."""
    count = sum(map(len, groups))
    return sum(map(sum, groups)) / (count * ONE) if count else 0.0

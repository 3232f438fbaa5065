"""Ways to make one score of the scores of several samples of a question, named as inspect_ai names them."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

MEAN = "mean"
Reducer = Callable[[Sequence[float]], float | None]
"""Makes a score of at least one; None when there are too few."""

RIGHT = 1.0
"""The least score that counts as right."""

_WITH_NUMBER = re.compile(r"(at_least|pass_at|pass_k)_(\d{1,4})", re.ASCII)


def mode(scores: Sequence[float]) -> float:
    """The most frequent score; of several the first."""
    return Counter(scores).most_common(1)[0][0]


def at_least(k: int, scores: Sequence[float]) -> float:
    """1 when at least `k` scores are right, else 0."""
    return float(_right(scores) >= k)


def pass_at(k: int, scores: Sequence[float]) -> float | None:
    """The probability that one of `k` samples is right, without bias (Chen et al. 2021, arXiv 2107.03374, equation 1).

    None for fewer than `k` scores.
    """
    total, right = len(scores), _right(scores)
    if total < k:
        return None
    return 1.0 - math.comb(total - right, k) / math.comb(total, k)


def pass_k(k: int, scores: Sequence[float]) -> float | None:
    """The probability that all of `k` samples are right (Yao et al. 2024, arXiv 2406.12045). None for fewer scores."""
    return math.comb(_right(scores), k) / math.comb(len(scores), k) if len(scores) >= k else None


def _right(scores: Sequence[float]) -> int:
    return sum(score >= RIGHT for score in scores)


PLAIN: Mapping[str, Reducer] = {MEAN: statistics.fmean, "median": statistics.median, "mode": mode, "max": max}
NUMBERED: Mapping[str, Callable[[int, Sequence[float]], float | None]] = {
    "at_least": at_least,
    "pass_at": pass_at,
    "pass_k": pass_k,
}


@lru_cache(maxsize=256)
def reducer(name: str) -> Reducer | None:
    """The reducer of that name, such as `mean`, `at_least_2`, `pass_at_5`; None for one that is not known."""
    if name in PLAIN:
        return PLAIN[name]
    match = _WITH_NUMBER.fullmatch(name)
    if not match or not int(match[2]):
        return None
    rule, k = NUMBERED[match[1]], int(match[2])
    return lambda scores: rule(k, scores)

"""Scores of candidates from several features: each as ranks, mixed by weights.

A raw cosine, a log-probability and the share of constraints met have no common unit; ranks have. Equal values have the
mean of their ranks, so a feature that is the same for all candidates, or that none has, changes no order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hybrid.errors import BadData, UsageError, nearest

DIGITS = 9
"""Decimals of values and scores that are compared: what differs in later ones is rounding error."""


def rank_normalised(values: Sequence[float | None]) -> list[float | None]:
    """Ranks of the values in [0, 1], the largest 1 and the smallest 0; equal values have the mean of their ranks.

    None, a value that is missing, stays None. Of values that are all equal each is 0.5. Raises BadData for NaN and
    infinities.
    """
    known = [round(value, DIGITS) for value in values if value is not None]
    if not all(map(math.isfinite, known)):
        raise BadData("a feature has a value that is not a finite number")
    ordered = sorted(known)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    most = 2 * (len(known) - 1)

    def rank(value: float) -> float:
        return (first[value] + last[value]) / most if most else 0.5

    return [None if value is None else rank(round(value, DIGITS)) for value in values]


def refuse_unknown_weights(weights: Mapping[str, float], known: Sequence[str]) -> None:
    """Raise UsageError for a weight of no feature, one below 0, and weights of which none is above 0."""
    for name, weight in weights.items():
        if name not in known:
            raise UsageError(f"the weight '{name}' belongs to no feature", hint=nearest(name, known))
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"the weight {name}={weight} is not 0 or more")
    if not any(weights.values()):
        raise UsageError("no feature has a weight above 0", hint=f"the features are {', '.join(sorted(known))}")


def mixed(features: Mapping[str, Sequence[float | None]], weights: Mapping[str, float]) -> list[float]:
    """The score of each candidate in [0, 1]: the weighted mean of its ranks.

    A feature that a candidate lacks is left out of its mean; a candidate without any has 0.5, the middle. A feature
    without a weight does not count. Raises as `refuse_unknown_weights` and `rank_normalised` do.
    """
    refuse_unknown_weights(weights, sorted(features))
    used = sorted(name for name, weight in weights.items() if weight)
    ranks = [rank_normalised(features[name]) for name in used]
    shares = [weights[name] for name in used]
    scores = []
    for of_candidate in zip(*ranks, strict=True):
        had = [(share, rank) for share, rank in zip(shares, of_candidate, strict=True) if rank is not None]
        weight = math.fsum(share for share, _ in had)
        scores.append(round(math.fsum(share * rank for share, rank in had) / weight, DIGITS) if had else 0.5)
    return scores


def by_score(scores: Sequence[float], ids: Sequence[str]) -> list[int]:
    """The places of the candidates, the best first; of equal scores the smaller id."""
    return sorted(range(len(ids)), key=lambda place: (-scores[place], ids[place]))

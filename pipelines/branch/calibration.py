"""What a cosine means with one embedding model: how far it lies above that of texts which have nothing to do with each
other.

Cosines of unrelated texts are near 0 with one model and near 0.7 with another, so no fixed threshold serves two models.
Here the middle is the median of the cosines between texts of different prompts and the unit is their spread, 1.4826
times the median distance from it, which for normal values is the standard deviation: few related pairs do not move
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.errors import UsageError
from pipelines.branch.rows import Rows, cosines

MAD = 1.4826
MOST = 1024
"""Texts that are compared, evenly taken from more."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Median and spread of the cosines of unrelated texts, and how many pairs they are from."""

    middle: float
    spread: float
    pairs: int

    def at(self, sigmas: float) -> float:
        """The cosine that is `sigmas` spreads above unrelated texts; at most 1."""
        return round(min(1.0, max(-1.0, self.middle + sigmas * self.spread)), 6)

    def sigmas(self, cosine: float) -> float:
        """How many spreads a cosine is above unrelated texts."""
        return round((cosine - self.middle) / self.spread, 3)


def calibrated(rows: Rows, prompts: Sequence[str]) -> Calibration:
    """The calibration by texts, of each the prompt that it answers: pairs of different prompts are unrelated.

    Where at least half of the cosines are equal, the spread is that of random directions, 1 / sqrt(d). Raises
    UsageError with texts of one prompt only.
    """
    order = sorted(range(len(prompts)), key=lambda place: (prompts[place], rows[place].tolist()))
    chosen = [order[step * len(order) // MOST] for step in range(MOST)] if len(order) > MOST else order
    kinds = np.array([prompts[place] for place in chosen])
    differ = np.triu(kinds[:, None] != kinds[None, :], 1) if len(kinds) else np.zeros((0, 0), dtype=bool)
    found = cosines(rows[chosen], rows[chosen])[differ]
    if not len(found):
        raise UsageError("a calibration needs texts of two prompts or more", hint="embed texts on different subjects")
    middle = float(np.median(found))
    spread = MAD * float(np.median(np.abs(found - middle)))
    return Calibration(round(middle, 6), round(spread, 6) or round(1 / math.sqrt(rows.shape[1]), 6), len(found))

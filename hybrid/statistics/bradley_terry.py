"""Strengths from verdicts on pairs (Bradley and Terry 1952): of texts, with the pairs to ask about next, and of arms.

The chance that text i, shown first, wins against j is logistic(strength i - strength j + order), where `order` is what
being first is worth to this judge (Davidson and Beaver 1977, Biometrics 33). A tie is half a win for both. Strengths
have a normal prior around 0 with the standard deviation PRIOR: few or one-sided verdicts give moderate strengths with
wide intervals, never infinite ones, and texts without a verdict are average. Intervals are those of the normal
approximation at the maximum, of strengths around their mean.

Arms of a run meet on many questions, of which those of one task are not independent. Their results have no order (each
pair was judged in both). The results of a pair count as the number of independent ones that they are worth
(`intervals.ClusteredMean.effective_size`). The interval is the wider one of that fit's and that of the cluster-robust
variance with Student's t (Liang and Zeger 1986, Biometrika 73): the latter knows that one answer stands in several
pairs, the former holds where all tasks agree and there is no variance to estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hybrid.errors import BadData, UsageError
from hybrid.statistics.agreement import Estimate
from hybrid.statistics.intervals import ClusteredMean, Z, student_quantile

PRIOR = 1.5
"""Standard deviation of strengths: a text one above the average wins against it in 82 % of all cases."""

ORDER_PRIOR = 1.0
STEPS = 100
DIGITS = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said of two texts: `won` is 1 when the one shown first is better, 0 the other, 0.5 a tie."""

    first: str
    second: str
    won: float

    def __post_init__(self) -> None:
        if self.first == self.second or self.won not in (0.0, 0.5, 1.0):
            raise BadData(f"no verdict on two texts: {self.first!r:.80}, {self.second!r:.80}, {self.won!r:.20}")


@dataclass(frozen=True, slots=True)
class Strength:
    """Of one text: how far it is above the average in log odds, its chance of a win against it, and its verdicts."""

    log_odds: Estimate
    chance: Estimate
    verdicts: int


def strengths(ids: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, Strength]:
    """The strength of each text. Verdicts may be in any order. Raises BadData for a verdict on an unknown text."""
    fit = _fitted(ids, verdicts)
    counts = dict.fromkeys(ids, 0)
    for verdict in verdicts:
        counts[verdict.first] += 1
        counts[verdict.second] += 1
    found = {}
    for place, id in enumerate(fit.ids):
        value, half = float(fit.values[place]), Z * float(np.sqrt(fit.covariance[place, place]))
        found[id] = _strength(value, half, counts[id])
    return {id: found[id] for id in ids}


class PairedResults:
    """Results of the named arms on pairs of their answers, as running sums.

    Memory grows with the square of the number of pairs, not with results. Those of a cluster come one after another.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        if len(set(ids)) < len(ids):
            raise UsageError("two arms of a comparison have the same name")
        self.ids = list(ids)
        self.pairs = list(combinations(self.ids, 2))
        self.means = [ClusteredMean() for _ in self.pairs]
        self.clusters = 0
        self._places = {pair: place for place, pair in enumerate(self.pairs)}
        self._open: dict[int, list[float]] = {}  # pair -> results and wins in the open cluster
        self._cluster: str | None = None
        m = len(self.pairs)
        self._counts, self._mixed, self._wins = (np.zeros((m, m)) for _ in range(3))

    def add(self, cluster: str, first: str, second: str, won: float) -> None:
        """Add a result: `won` is what `first` won against `second`, 0 to 1. Raises KeyError for an unknown arm."""
        turned = (first, second) not in self._places
        place = self._places[(second, first) if turned else (first, second)]
        if cluster != self._cluster:
            self._close()
            self._cluster = cluster
        won = 1.0 - won if turned else won
        self.means[place].add(cluster, won)
        sums = self._open.setdefault(place, [0.0, 0.0])
        sums[0] += 1
        sums[1] += won

    def _close(self) -> None:
        if self._open:
            self.clusters += 1
            places = np.ix_(list(self._open), list(self._open))
            n, won = np.array(list(self._open.values())).T
            self._counts[places] += np.outer(n, n)
            self._mixed[places] += np.outer(won, n)
            self._wins[places] += np.outer(won, won)
        self._open = {}

    def covariance(self, chance: Floats) -> Floats:
        """The sum over clusters of the outer product of their residuals, wins minus `chance` of them, pair by pair."""
        self._close()
        crossed = self._mixed * chance[None, :]
        return self._wins - crossed - crossed.T + self._counts * np.outer(chance, chance)


def standings(results: PairedResults, baseline: str = "") -> dict[str, Strength]:
    """The strength of each arm, above the average arm or above the arm `baseline`; `verdicts` counts its results."""
    ids, pairs = results.ids, results.pairs
    places = {id: place for place, id in enumerate(ids)}
    k, m = len(ids), len(pairs)
    design, rows = np.zeros((m, k)), np.arange(m)
    design[rows, [places[one] for one, _ in pairs]] = 1.0
    design[rows, [places[other] for _, other in pairs]] = -1.0
    n, won = np.array([one.n for one in results.means], float), np.array([one.total for one in results.means])
    worth = np.array([one.effective_size() / one.n if one.n else 0.0 for one in results.means])
    values, information = _maximum(design, worth * won, worth * n, np.full(k, PRIOR**-2))
    contrast = np.eye(k) - (np.eye(k)[places[baseline]] if baseline else np.full(k, 1 / k))
    covariance: Floats = np.linalg.inv(information).astype(np.float64)
    squares, g = Z**2 * _variances(contrast, covariance), results.clusters
    if g > 1:
        residuals = results.covariance(1 / (1 + np.exp(-(design @ values)))) * np.outer(worth, worth)
        robust = _variances(contrast @ covariance, design.T @ residuals @ design * (g / (g - 1)))
        squares = np.maximum(squares, student_quantile(g - 1) ** 2 * robust)
    counts = np.abs(design).T @ n
    above = zip(ids, contrast @ values, np.sqrt(squares), counts, strict=True)
    return {id: _strength(float(value), float(half), int(count)) for id, value, half, count in above}


def _variances(contrast: Floats, covariance: Floats) -> Floats:
    return np.maximum(np.diag(contrast @ covariance @ contrast.T), 0.0)


def _strength(value: float, half: float, verdicts: int) -> Strength:
    ends = [round(end, DIGITS) for end in (value, value - half, value + half)]
    return Strength(Estimate(*ends), Estimate(*(round(_chance(end), DIGITS) for end in ends)), verdicts)


def next_pairs(ids: Sequence[str], verdicts: Sequence[Verdict], calls: int) -> list[tuple[str, str]]:
    """Pairs to ask about, the first of each shown first: each is asked in both orders, with at most `calls` questions.

    One after another the pair that tells most: the uncertainty of its difference times that of its outcome (the gain in
    the determinant of the information). What a pair will tell is counted before the next is chosen. Pairs that have
    been asked come last.
    """
    if len(ids) < 2 or calls < 2:
        return []
    fit = _fitted(ids, verdicts)
    n, covariance = len(ids), fit.covariance.copy()
    first, second = (np.array(places) for places in zip(*combinations(range(n), 2), strict=True))
    chance = 1 / (1 + np.exp(-np.abs(fit.values[first] - fit.values[second])))
    outcome = chance * (1 - chance)
    asked = {frozenset((verdict.first, verdict.second)) for verdict in verdicts}
    left = np.array([frozenset((fit.ids[i], fit.ids[j])) not in asked for i, j in zip(first, second, strict=True)])
    pairs: list[tuple[str, str]] = []
    while 2 * len(pairs) + 2 <= calls and left.any():
        spread = covariance[first, first] + covariance[second, second] - 2 * covariance[first, second]
        gain = np.where(left, np.round(spread * outcome, DIGITS), -1.0)
        best = int(gain.argmax())
        i, j = int(first[best]), int(second[best])
        column = covariance[:, i] - covariance[:, j]
        told = 2 * outcome[best]
        covariance -= np.outer(column, column) * (told / (1 + told * spread[best]))
        left[best] = False
        pairs += [(fit.ids[i], fit.ids[j])]
    return [shown for pair in pairs for shown in (pair, pair[::-1])]


@dataclass(frozen=True, slots=True)
class _Fit:
    """Texts by id, their strengths around the mean, and the covariance of these."""

    ids: list[str]
    values: Floats
    covariance: Floats


def _fitted(ids: Sequence[str], verdicts: Sequence[Verdict]) -> _Fit:
    names = sorted(ids)
    if len(set(names)) < len(names):
        raise UsageError("two texts of a comparison have the same id")
    places: Mapping[str, int] = {id: place for place, id in enumerate(names)}
    unknown = [id for verdict in verdicts for id in (verdict.first, verdict.second) if id not in places]
    if unknown:
        raise BadData(f"there is a verdict on '{unknown[0]:.80}', which is not compared")
    ordered = sorted(verdicts, key=lambda one: (one.first, one.second, one.won))
    n, m = len(names), len(ordered)
    design = np.zeros((m, n + 1))
    rows = np.arange(m)
    design[rows, [places[one.first] for one in ordered]] = 1.0
    design[rows, [places[one.second] for one in ordered]] = -1.0
    design[:, n] = 1.0
    won = np.array([one.won for one in ordered])
    prior = np.array([PRIOR**-2] * n + [ORDER_PRIOR**-2])
    values, information = _maximum(design, won, np.ones(m), prior)
    centre = np.eye(n) - 1 / n if n else np.zeros((0, 0))
    covariance = centre @ np.linalg.inv(information)[:n, :n] @ centre.T
    return _Fit(names, np.round(centre @ values[:n], DIGITS), covariance)


def _maximum(design: Floats, won: Floats, n: Floats, prior: Floats) -> tuple[Floats, Floats]:
    """The most probable values by Newton's method, and the information there. The posterior has one maximum.

    A row of `design` has `n` verdicts, of which `won` are wins.
    """
    values = np.zeros(len(prior))
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-(design @ values)))
        information = design.T @ (design * (n * chance * (1 - chance))[:, None]) + np.diag(prior)
        step = np.linalg.solve(information, design.T @ (won - n * chance) - prior * values)
        values = values + step * min(1.0, 2.0 / max(float(np.abs(step).max(initial=0.0)), 1e-300))
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return values, information


def _chance(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))

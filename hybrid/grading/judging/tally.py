"""What came of all pairs together: results of the arms, their strengths, and how order and length go with winning."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from hybrid.grading.judging import comparing
from hybrid.grading.judging.comparing import Vote, both_of
from hybrid.grading.judging.pairs import Pair
from hybrid.machine.late_imports import import_object
from hybrid.metrics import Interval, Measured
from hybrid.statistics.agreement import KrippendorffAlpha
from hybrid.statistics.intervals import ClusteredMean
from hybrid.statistics.ranks import rank_correlation

EVEN: Interval = (0.5, 0.5)
STRENGTH = "strength (Bradley-Terry, log odds)"
WIN_RATE = "win rate"
JUDGE = "the judge"


class Tally:
    """The sums over all pairs of all questions. Raises CannotRun without numpy, which the strengths need."""

    def __init__(self, arms: Sequence[str]) -> None:
        self._fit: Any = import_object("hybrid.statistics.bradley_terry", needed_for="the grader 'pairwise'")
        self._results = self._fit.PairedResults(arms)
        self._rates = {name: ClusteredMean() for name in arms}
        self.counts = {"pairs": 0, "ties": 0, "equal answers": 0,
                       "pairs not judged": 0, "repaired": 0, "unreadable": 0}  # fmt: skip
        self.swaps = {"pairs": 0, "changed": 0}
        self.alpha = KrippendorffAlpha()
        self._first, self._changed, self._longer = ClusteredMean(), ClusteredMean(), ClusteredMean()
        self._lengths, self._won = array("d"), array("d")

    def add(self, task: str, pair: Pair, outcome: float | str, votes: list[Vote]) -> None:
        """Add what was found of a pair. Those of a task come one after another."""
        self._add_votes(task, votes)
        if isinstance(outcome, str):
            self.counts["pairs not judged"] += 1
            return
        self.counts["pairs"] += 1
        self.counts["ties"] += outcome == 0.5
        self.counts["equal answers"] += not votes
        self._results.add(task, *pair.arms, outcome)
        for name, won in zip(pair.arms, (outcome, 1 - outcome), strict=True):
            self._rates[name].add(task, won)
        self._add_lengths(task, pair, outcome)

    def _add_votes(self, task: str, votes: list[Vote]) -> None:
        found = [one for vote in votes if (one := both_of(vote))]
        self.alpha.add([int(2 * one.won) for one in found])
        for one in found:
            self.swaps["pairs"] += 1
            self.swaps["changed"] += one.changed
            self._changed.add(task, float(one.changed))
        for verdict in (verdict for vote in votes for verdict in vote):
            if isinstance(verdict, str):
                self.counts["unreadable"] += 1
                continue
            self.counts["repaired"] += verdict.repaired
            if verdict.value != comparing.TIE:
                self._first.add(task, float(verdict.value == comparing.FIRST))

    def _add_lengths(self, task: str, pair: Pair, outcome: float) -> None:
        gap = len(pair.first.text or "") - len(pair.second.text or "")
        self._lengths.append(gap)
        self._won.append(outcome)
        if gap and outcome != 0.5:
            self._longer.add(task, float((gap > 0) == (outcome > 0.5)))

    def measures(self, baseline: str) -> Iterator[Measured]:
        """Strengths and win rates of the arms, the best first, then each pair, then the judge's own leanings.

        Strengths are above the arm `baseline`, or above the average arm where none is named.
        """
        found = self._fit.standings(self._results, baseline)
        for name in sorted(found, key=lambda name: (-found[name].log_odds.value, name)):
            if found[name].verdicts and name != baseline:
                yield _strength(name, found[name], baseline)
            yield from _rate(name, WIN_RATE, self._rates[name], "higher")
        for (one, other), mean in zip(self._results.pairs, self._results.means, strict=True):
            yield from _rate(f"{one} against {other}", WIN_RATE, mean, "higher")
        yield from self._leanings()

    def _leanings(self) -> Iterator[Measured]:
        """How often the judge prefers what is shown first, changes its verdict with the order, and prefers the longer.

        The rank correlation counts every pair from both of its sides, since which one is the first means nothing.
        """
        yield from _rate(JUDGE, "prefers the answer shown first", self._first)
        if interval := self._changed.interval():
            yield Measured(JUDGE, "order changes the verdict", self._changed.mean or 0.0, self._changed.n, interval)
        yield from _rate(JUDGE, "the longer answer wins", self._longer)
        lengths = [*self._lengths, *(-gap for gap in self._lengths)]
        rho = rank_correlation(lengths, [*self._won, *(1 - won for won in self._won)])
        if rho is not None:
            yield Measured(JUDGE, "rank correlation of winning with length", round(rho, 6), len(self._won))


def _strength(name: str, found: Any, baseline: str) -> Measured:
    value, *ends = found.log_odds
    against = f"the arm {baseline}" if baseline else "the average arm"
    return Measured(name, STRENGTH, value, found.verdicts, (ends[0], ends[1]), 0.0, (0.0, 0.0), against, "higher")


def _rate(group: str, name: str, mean: ClusteredMean, better: str = "") -> Iterator[Measured]:
    """A share beside one half; nothing where nothing was counted."""
    if interval := mean.interval():
        yield Measured(group, name, mean.mean or 0.0, mean.n, interval, 0.5, EVEN, "an even chance", better)

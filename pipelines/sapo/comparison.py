"""What arms are worth: figures over seeds with intervals, and differences between arms, paired by seed.

A seed counts once: its nodes share rollouts, so they are no further independent values. With one seed the nodes are
taken, and everything says so: that tells something of these nodes, and nothing of another seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hybrid.metrics import UNKNOWN, UNTESTED, Interval
from hybrid.statistics.intervals import student_quantile
from hybrid.statistics.paired import ROUNDING, PairedComparison, compared
from pipelines.sapo.arms import arm_of
from pipelines.sapo.context import Context
from pipelines.sapo.results import Swarm, arms_of

Better = Literal["higher", "lower", ""]
Over = Literal["seeds", "nodes"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a swarm: node -> value, of the first `done` rounds. `total`: nodes are added up, not averaged."""

    name: str
    of: Callable[[Swarm, int], Mapping[int, float]]
    better: Better = "higher"
    range: Interval = (0.0, 1.0)
    total: bool = False

    def value(self, swarm: Swarm, done: int) -> float | None:
        """The value of a swarm; None where no node has one."""
        found = self.of(swarm, done)
        if not found:
            return None
        return math.fsum(found.values()) if self.total else statistics.fmean(found.values())


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean over `n` seeds (or nodes of the one seed), and its 95 % interval, None where it is not known."""

    mean: float
    interval: Interval | None
    n: int
    over: Over


@dataclass(frozen=True, slots=True)
class Paired:
    """The difference of two arms, by `over`; `wrote`: completions of the first one for each of the second one."""

    found: PairedComparison
    over: Over
    wrote: float | None

    @property
    def verdict(self) -> str:
        """Better or worse where the 95 % interval of Student's t does not hold 0."""
        interval = self.found.interval
        if interval is None:
            return UNTESTED
        if interval[0] <= 0 <= interval[1]:
            return UNKNOWN
        return "better" if self.found.mean > 0 else "worse"


class Figures:
    """The figures of a run, of the parts that its context names."""

    def __init__(self, context: Context) -> None:
        self.context = context
        everything = 0.0, math.inf
        self.own = self._last("reward_own")
        self.held_out = self._last("eval_pass1")
        self.train = self._last("reward_train")
        self.own_rise = self._rise("reward_own")
        self.held_out_rise = self._rise("eval_pass1")
        self.cumulative = Figure("cumulative", lambda one, done: one.sums("reward_train", range(done)), "higher",
                                 everything, total=True)  # fmt: skip
        self.completions = Figure("cumulative of completions", self._of_completions, "higher", everything, total=True)
        self.dead = _mean("dead", "")
        self.tagged = _mean("tagged", "")
        self.ended = _mean("ended", "")
        self.taken = Figure("n_ext of ext_wanted", _taken, "")
        self.age = _mean("ext_age_mean", "", everything)
        self.written = Figure("completions written", self._written, "", everything, total=True)

    def _last(self, metric: str) -> Figure:
        return Figure(metric, lambda one, done: one.by_node(metric, self.context.ends(done)[1]))

    def _rise(self, metric: str) -> Figure:
        return Figure(f"rise of {metric}", lambda one, done: self._risen(one, metric, done), range=(-1.0, 1.0))

    def _risen(self, one: Swarm, metric: str, done: int) -> dict[int, float]:
        first, last = self.context.ends(done)
        if first.stop > last.start:
            return {}
        before, after = one.by_node(metric, first), one.by_node(metric, last)
        return {node: after[node] - before[node] for node in after if node in before}

    def _of_completions(self, one: Swarm, done: int) -> dict[int, float]:
        """The sum over a node's own completions."""
        found = {}
        for node, rounds in one.nodes.items():
            written = dict(rounds.curve("n_own", range(done)))
            of_node = [value * written.get(number, 0.0) for number, value in rounds.curve("reward_own", range(done))]
            if of_node and self.context.group:
                found[node] = self.context.group * math.fsum(of_node)
        return found

    def _written(self, one: Swarm, done: int) -> dict[int, float]:
        return {node: value * max(1, self.context.group) for node, value in one.sums("n_own", range(done)).items()}


def _mean(metric: str, better: Better, most: Interval = (0.0, 1.0)) -> Figure:
    return Figure(metric, lambda one, done: one.by_node(metric, range(done)), better, most)


def _taken(one: Swarm, done: int) -> dict[int, float]:
    """Node -> foreign rollouts that it trained on, as a share of those that it wanted."""
    wanted, got = (one.sums(name, range(done)) for name in ("ext_wanted", "n_ext"))
    return {node: min(1.0, got.get(node, 0.0) / value) for node, value in wanted.items() if value > 0}


class Comparison:
    """The arms of a run, side by side."""

    def __init__(self, swarms: Sequence[Swarm], context: Context) -> None:
        self.swarms, self.context = [one for one in swarms if one.nodes], context
        self.empty = [one for one in swarms if not one.nodes]
        self.figures = Figures(context)
        self.arms = arms_of(self.swarms)

    def of(self, arm: str) -> list[Swarm]:
        """The swarms of an arm, by seed."""
        return [one for one in self.swarms if one.arm.name == arm]

    def summary(self, arm: str, figure: Figure) -> Summary | None:
        """A figure of an arm over its seeds, of the rounds that there are; of one seed over its nodes."""
        swarms = self.of(arm)
        values = [value for one in swarms if (value := figure.value(one, one.done)) is not None]
        if not values:
            return None
        if len(swarms) > 1:
            return summarised(values, figure, "seeds")
        nodes = list(figure.of(swarms[0], swarms[0].done).values())
        return summarised(nodes, figure, "nodes")

    def controls(self, arm: str) -> list[str]:
        """The arms that an arm is compared with: those without sharing, and its own controls.

        Where every arm shares, all are compared with the one that shares least.
        """
        of = arm_of(arm)
        if not of.shared:
            return []
        alone = [name for name in self.arms if not (one := arm_of(name)).shared and not one.control]
        own = [name for name in self.arms if (one := arm_of(name)).control and (one.own, one.foreign) == _sizes(arm)]
        return alone + own or [name for name in self.arms[:1] if name != arm]

    def paired(self, arm: str, control: str, figure: Figure) -> Paired | None:
        """The difference to another arm on the same seeds, in the rounds that both have; None without a pair."""
        own, others = ({one.seed: one for one in self.of(name)} for name in (arm, control))
        seeds = [seed for seed in own if seed in others]
        values, wrote = [], []
        for seed in seeds:
            done = min(own[seed].done, others[seed].done)
            pair = figure.of(others[seed], done), figure.of(own[seed], done)
            values.append(pair)
            wrote.append([self.figures.written.value(one, done) or 0.0 for one in (own[seed], others[seed])])
        over: Over = "seeds" if len(own) > 1 or len(others) > 1 else "nodes"
        pairs = _by_seed(values) if over == "seeds" else _by_node(values)
        if not pairs:
            return None
        ours, theirs = (math.fsum(one[place] for one in wrote) for place in (0, 1))
        return Paired(compared(pairs), over, ours / theirs if theirs else None)


def _sizes(arm: str) -> tuple[int, int]:
    of = arm_of(arm)
    return of.own, of.foreign


def _by_seed(values: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[tuple[float, float]]:
    return [
        (statistics.fmean(first.values()), statistics.fmean(second.values()))
        for first, second in values
        if first and second
    ]


def _by_node(values: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[tuple[float, float]]:
    """The nodes that both have: they begin alike, and meet the same questions."""
    return [(first[node], second[node]) for first, second in values for node in sorted(first.keys() & second.keys())]


def summarised(values: Sequence[float], figure: Figure, over: Over) -> Summary:
    """The mean (of nodes of a total: the sum) with the interval of Student's t, cut to the figure's range."""
    n, mean = len(values), statistics.fmean(values)
    times = n if figure.total and over == "nodes" else 1
    spread = statistics.stdev(values) if n > 1 else 0.0
    if spread <= ROUNDING * max(map(abs, values)):
        return Summary(mean * times, None, n, over)
    half, (low, high) = times * student_quantile(n - 1) * spread / math.sqrt(n), figure.range
    return Summary(mean * times, (max(low, mean * times - half), min(high, mean * times + half)), n, over)

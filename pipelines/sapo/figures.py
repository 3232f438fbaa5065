"""Curves over rounds: a line an arm with its interval over seeds, the cumulative reward as the paper has it, nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from hybrid.metrics import Interval
from hybrid.report.formatting import count_of
from hybrid.report.line_charts import Line, line_chart
from hybrid.report.markup import Html, el, join
from pipelines.sapo.comparison import Comparison, Figure, Over, summarised
from pipelines.sapo.results import NodeRounds, Swarm

MOST_POINTS = 60
"""Points of a curve; of more rounds a point is the mean of several."""
SHARES = 0.0, 1.0
AGE = "ext_age_mean"
CHARTS: Sequence[tuple[str, str, Interval]] = (
    ("reward_own: own rollouts", "reward_own", SHARES), ("eval_pass1: held-out questions", "eval_pass1", SHARES),
    ("reward_train: the training set, not to be compared between arms", "reward_train", SHARES),
    ("dead: rollouts without advantage", "dead", SHARES), ("tagged: completions with an answer", "tagged", SHARES),
    ("Mean age of foreign rollouts, in rounds", AGE, (0.0, math.inf)),
)  # fmt: skip
CUMULATIVE = "Cumulative reward, the paper's: the sum over rounds and nodes of reward_train"

Blocks = Mapping[int, float]
"""The middle round of a block -> the mean of a metric in it."""


def curves(comparison: Comparison) -> Html:
    """A chart for each metric, and the cumulative reward."""
    size = block_size(comparison.swarms)
    charts = []
    for title, metric, most in CHARTS:
        lines = [_line(comparison, arm, _blocks_of(metric, size), Figure(metric, lambda *_: {}, "", most))
                 for arm in comparison.arms]  # fmt: skip
        if metric != AGE or any(value for one in lines for value in one.points.values()):
            charts.append(_chart(title, lines))  # an age of 0 in all rounds shows nothing
    total = Figure("cumulative", lambda *_: {}, "", (0.0, math.inf), total=True)
    ends = max((one.done for one in comparison.swarms), default=1) - 1
    charts.append(_chart(CUMULATIVE, [_line(comparison, arm, _sums(size, ends), total) for arm in comparison.arms]))
    drawn = [one for one in charts if one]
    return join([el("h3", "Curves of the arms"), el("p", _reading(comparison, size), cls="note"),
                 el("div", *drawn, cls="all-series")]) if drawn else Html("")  # fmt: skip


def node_curves(comparison: Comparison) -> Html:
    """reward_own of every node, arm by arm, folded: the mean over seeds."""
    size = block_size(comparison.swarms)
    charts = []
    for arm in comparison.arms:
        swarms = comparison.of(arm)
        nodes = sorted({node for one in swarms for node in one.nodes})
        lines = [
            Line(f"node-{node}", _common([blocks(one.nodes[node], "reward_own", size) for one in swarms
                                          if node in one.nodes], fmean))
            for node in nodes
        ]  # fmt: skip
        if len(nodes) > 1 and any(one.points for one in lines):
            charts.append(line_chart(f"{arm}: reward_own by node", [one for one in lines if one.points]))
    if not charts:
        return Html("")
    return el("details", el("summary", "Curves of the nodes"), el("div", *charts, cls="all-series"))


def block_size(swarms: Sequence[Swarm]) -> int:
    """Rounds of a point."""
    return max(1, -(-max((one.done for one in swarms), default=1) // MOST_POINTS))


def blocks(node: NodeRounds, metric: str, size: int) -> dict[int, float]:
    """The means of a metric over blocks of `size` rounds that have it, by the first round of the block."""
    sums: dict[int, list[float]] = {}
    for number, value in node.curve(metric):
        sums.setdefault(number // size * size, []).append(value)
    return {start: fmean(values) for start, values in sums.items()}


def _chart(title: str, lines: Sequence[Line]) -> Html:
    known = [one for one in lines if one.points]
    return line_chart(title, known) if known else Html("")


def _line(comparison: Comparison, arm: str, of: Callable[[Swarm], Mapping[int, Blocks]], figure: Figure) -> Line:
    """The mean of an arm over its seeds (of one: over its nodes) at the blocks that all have, with its interval."""
    swarms = comparison.of(arm)
    by_swarm = [of(one) for one in swarms]
    over: Over = "seeds" if len(swarms) > 1 else "nodes"
    if over == "seeds":
        combine = math.fsum if figure.total else fmean
        each: list[Blocks] = [_any(list(nodes.values()), combine) for nodes in by_swarm]
    else:
        each = list(by_swarm[0].values())
    points, band = dict[int, float](), dict[int, Interval]()
    for start in _shared(each):
        found = summarised([one[start] for one in each], figure, over)
        points[start] = found.mean
        band[start] = found.interval or (found.mean, found.mean)  # equal values have no known spread
    return Line(arm, points, band if any(low < high for low, high in band.values()) else {})


def _blocks_of(metric: str, size: int) -> Callable[[Swarm], Mapping[int, Blocks]]:
    def of(swarm: Swarm) -> Mapping[int, Blocks]:
        found = {number: blocks(node, metric, size) for number, node in swarm.nodes.items()}
        return {number: one for number, one in found.items() if one}

    return of


def _sums(size: int, ends: int) -> Callable[[Swarm], Mapping[int, Blocks]]:
    """The sum of reward_train up to the end of each block, by the block's last round, at most `ends`."""

    def of(swarm: Swarm) -> Mapping[int, Blocks]:
        found = {}
        for number, node in swarm.nodes.items():
            total, sums = 0.0, dict[int, float]()
            for place, value in node.curve("reward_train"):
                total += value
                sums[min(ends, place // size * size + size - 1)] = total
            found[number] = sums
        return found

    return of


def _shared(each: Sequence[Blocks]) -> list[int]:
    """The blocks that all have."""
    return sorted(set[int](each[0]).intersection(*each[1:])) if each else []


def _common(each: Sequence[Blocks], combine: Callable[[Sequence[float]], float]) -> dict[int, float]:
    return {start: combine([one[start] for one in each]) for start in _shared(each)}


def _any(each: Sequence[Blocks], combine: Callable[[Sequence[float]], float]) -> dict[int, float]:
    """Of the nodes that have a block."""
    starts = sorted({start for one in each for start in one})
    return {start: combine([one[start] for one in each if start in one]) for start in starts}


def _reading(comparison: Comparison, size: int) -> str:
    several = any(len(comparison.of(arm)) > 1 for arm in comparison.arms)
    over = "over seeds" if several else "over the nodes of the one seed"
    point = f" A point is the mean of {count_of(size, 'round')}." if size > 1 else ""
    band = "its band is the 95 % interval (Student's t)"
    return f"A line is an arm's mean {over}, {band}. Rounds that some of them lack are left out.{point}"

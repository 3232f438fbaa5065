"""What the candidates of a scenario are worth together, each figure beside the same one of plain samples.

The control is what a run without this pipeline has: as many samples of the plain prompt, of which chance chooses as
many as were kept. Its figure is the mean over many such choices, its interval holds 95 % of them; where there is one
choice only, it is that of the jackknife, as for the candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid.machine.late_imports import import_object
from hybrid.machine.terminal import count_of
from hybrid.metrics import Interval, Measured
from hybrid.statistics import diversity
from hybrid.statistics.agreement import Estimate
from hybrid.statistics.intervals import wilson
from pipelines.branch.order import order_measured
from pipelines.branch.reading import TreeNode, kept_of, plain_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANCE = "plain samples, chosen by chance"
PLAIN = "plain sample"
MOST_DRAWS = 200
WORK = 20_000
"""Texts that the draws of one control may cost."""

DIGITS = 6

Figure = Callable[[Sequence[TreeNode]], float | None]


@dataclass(frozen=True, slots=True)
class Control:
    """The mean of a figure over random choices of plain samples, and what holds 95 % of them; None when unknown."""

    mean: float
    interval: Interval | None


def measured(task: str, nodes: Sequence[TreeNode]) -> Iterator[Measured]:
    """The figures of one scenario, in the order in which they are shown."""
    kept = kept_of(nodes)
    if not kept:
        yield from order_measured(task, nodes)
        return
    depth = max(one.depth for one in kept)
    pool = plain_of(nodes, depth)
    yield from _of_kept(task, kept, pool)
    yield from _of_all(task, nodes, depth, pool)
    yield from _of_strategies(task, nodes, depth)
    yield from order_measured(task, nodes)


def chance(pool: Sequence[TreeNode], size: int, figure: Figure, seed: str, most: float = math.inf) -> Control | None:
    """A figure of `size` plain samples that chance chooses; None when there are too few, or it has no value.

    Of as many samples as there are, there is one choice, whose interval is that of the jackknife.
    """
    if not 0 < size <= len(pool):
        return None
    if size == len(pool):
        own = _over(pool, figure, most)
        return None if own is None else Control(round(own.value, DIGITS), _interval(own))
    draw = random.Random(seed)
    times = max(20, min(MOST_DRAWS, WORK // size))
    choices = (sorted(draw.sample(range(len(pool)), size)) for _ in range(times))
    values = [value for places in choices if (value := figure([pool[place] for place in places])) is not None]
    if not values:
        return None
    values.sort()
    ends = values[int(0.025 * (len(values) - 1))], values[math.ceil(0.975 * (len(values) - 1))]
    return Control(round(math.fsum(values) / len(values), DIGITS), ends)


def _over(nodes: Sequence[TreeNode], figure: Figure, most: float = math.inf) -> Estimate | None:
    """A figure from 0 to `most` with the interval of the jackknife; None where it has no value.

    Where it has none without some of the nodes, the interval is the value.
    """
    without_value = False

    def of(places: Sequence[int]) -> float:
        nonlocal without_value
        value = figure([nodes[place] for place in places])
        without_value |= value is None and len(places) < len(nodes)
        return math.nan if value is None else value

    found = diversity.jackknife(len(nodes), of)
    if math.isnan(found.value):
        return None
    if without_value:
        return Estimate(found.value, found.value, found.value)
    return Estimate(found.value, max(0.0, found.low), min(most, found.high))


def _interval(found: Estimate) -> Interval | None:
    """The interval as it is told: None where the candidates give none, as two do whose diversity is asked for."""
    if not found.low < found.high:
        return None
    return round(found.low, DIGITS), round(found.high, DIGITS)


def vendi_of(nodes: Sequence[TreeNode]) -> float | None:
    """The Vendi score of the nodes' vectors; None when one has none."""
    rows = rows_of(nodes)
    return None if rows is None else diversity.effective_number(rows)


def rows_of(nodes: Sequence[TreeNode]) -> NDArray[Any] | None:
    """The vectors as rows; None without nodes, when one has no vector, and when they are of different models."""
    if not nodes or len({len(one.vector) for one in nodes}) != 1 or not nodes[0].vector:
        return None
    rows: NDArray[Any] = import_object("numpy", needed_for="diversity").array([one.vector for one in nodes])
    return rows


def _of_kept(task: str, kept: Sequence[TreeNode], pool: Sequence[TreeNode]) -> Iterator[Measured]:
    """What was kept, against as many plain samples that chance chose."""
    with_vectors = [one for one in kept if one.vector]
    plain = [one for one in pool if len(one.vector) == len(with_vectors[0].vector)] if with_vectors else []
    if (rows := rows_of(with_vectors)) is not None:
        control = chance(plain, len(with_vectors), vendi_of, f"{task} vendi", len(with_vectors))
        yield _beside(task, "Vendi score of the kept", len(with_vectors), diversity.vendi(rows), control, CHANCE)
    for name, feature, mean in (
        ("relevance of the kept", "relevance", _mean),
        ("constraints met by the kept", "constraints", _share),
    ):
        values = [one.features[feature] for one in kept if feature in one.features]
        if values:
            known = [one for one in pool if feature in one.features]
            control = chance(known, len(values), _mean_of(feature), f"{task} {feature}", 1.0)
            yield _beside(task, name, len(values), mean(values), control, CHANCE)
    for name, figure, better in (
        ("distinct-2 of the kept", _distinct, "higher"),
        ("self-BLEU of the kept (lower is better)", _repeats, "lower"),
    ):
        if (value := _over(kept, figure, 1.0)) is not None:
            control = chance(pool, len(kept), figure, f"{task} {name}", 1.0)
            yield _beside(task, name, len(kept), value, control, CHANCE, better)
    preferences = [one.preference for one in kept if one.preference is not None]
    if preferences:
        even = Control(0.5, (0.5, 0.5))
        yield _beside(task, "comparisons with plain samples won", len(preferences), _share(preferences), even, "a tie")


def _of_all(task: str, nodes: Sequence[TreeNode], depth: int, pool: Sequence[TreeNode]) -> Iterator[Measured]:
    """All candidates of the level, against as many plain samples."""
    every = [one for one in nodes if not one.control and one.depth == depth and one.vector]
    rows = rows_of(every)
    if rows is None:
        return
    plain = [one for one in pool if len(one.vector) == len(every[0].vector)]
    size = min(len(every), len(plain))
    control = chance(plain, size, vendi_of, f"{task} all", size) if size else None
    against = count_of(size, PLAIN) if size < len(every) else f"{PLAIN}s"
    yield _beside(task, "Vendi score of all candidates", len(every), diversity.vendi(rows), control, against)


def _of_strategies(task: str, nodes: Sequence[TreeNode], depth: int) -> Iterator[Measured]:
    """What 1,000 generated tokens gain, for each way to ask, against plain samples of at most as many tokens."""
    every = [one for one in nodes if one.depth == depth]
    plain = sorted((one for one in every if one.control), key=lambda one: (one.place, one.id))
    for strategy in sorted({one.strategy for one in every if not one.control and one.strategy}):
        asked = [one for one in every if one.strategy == strategy and not one.control]
        tokens = sum(one.tokens for one in asked)
        own = gain(asked, tokens)
        if own is None:
            continue
        name = f"Vendi gain per 1,000 tokens: {strategy}"
        spent, until = 0, 0
        while until < len(plain) and spent + plain[until].tokens <= tokens:
            spent, until = spent + plain[until].tokens, until + 1
        value = gain(plain[:until], spent)
        against = f"{count_of(until, PLAIN)} of {count_of(spent, 'token')}"
        with_text = sum(bool(one.vector) for one in asked)
        control = None if value is None else Control(value, _gain_interval(plain[:until]))
        interval = _gain_interval(asked)
        known = Estimate(own, *(interval or (own, own)))
        yield _beside(task, name, with_text, known, control, against if value is not None else "")


def gain(nodes: Sequence[TreeNode], tokens: int) -> float | None:
    """The Vendi score that 1,000 tokens brought. Tokens of candidates that failed or were refused count, too."""
    value = vendi_of([one for one in nodes if one.vector])
    return None if value is None or not tokens else round(1000 * value / tokens, DIGITS)


def _gain_interval(nodes: Sequence[TreeNode]) -> Interval | None:
    """The interval of a gain over other candidates of the same strategy, by the jackknife."""
    found = _over(nodes, lambda some: gain(some, sum(one.tokens for one in some)))
    return None if found is None else _interval(found)


def _beside(
    task: str, name: str, n: int, value: Estimate, control: Control | None, against: str, better: str = "higher"
) -> Measured:
    own, interval = round(value.value, DIGITS), _interval(value)
    if control is None:
        return Measured(task, name, own, n, interval, better=better)
    return Measured(task, name, own, n, interval, control.mean, control.interval, against, better)


def _share(values: Sequence[float]) -> Estimate:
    """The mean of shares with Wilson's interval, by text; of what is no share that of the jackknife."""
    mean = math.fsum(values) / len(values)
    if all(0.0 <= one <= 1.0 for one in values):
        return Estimate(mean, *wilson(min(1.0, mean), len(values)))
    return _mean(values)


def _mean(values: Sequence[float]) -> Estimate:
    """The mean of cosines with the interval of the jackknife: that of Student's t."""
    found = diversity.jackknife(len(values), lambda places: math.fsum(values[one] for one in places) / len(places))
    return Estimate(found.value, max(-1.0, found.low), min(1.0, found.high))


def _mean_of(feature: str) -> Figure:
    return lambda nodes: math.fsum(one.features[feature] for one in nodes) / len(nodes)


def _distinct(nodes: Sequence[TreeNode]) -> float | None:
    return diversity.distinct_n([one.text or "" for one in nodes], 2)


def _repeats(nodes: Sequence[TreeNode]) -> float | None:
    return diversity.self_bleu([one.text or "" for one in nodes])

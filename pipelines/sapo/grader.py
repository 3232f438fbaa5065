"""What arms of a swarm are worth: rewards of their own rollouts and of held-out questions, beside controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from hybrid.bounds import Bounds, refuse_outside
from hybrid.metrics import Interval, Measured, RoundMetrics
from hybrid.protocols import Watcher
from hybrid.records import Grade, Output
from pipelines.sapo.comparison import Comparison, Figure, Summary
from pipelines.sapo.context import PART, Context, context_of
from pipelines.sapo.findings import findings
from pipelines.sapo.results import SERIES, read_swarms

DIGITS = 6
NO_EFFECT = 0.0, (0.0, 0.0)
SILENT = "a model that never answers"
FIRST = "the first part of the same run"


@dataclass(frozen=True)
class Sapo:
    """The last round of a series scores the mean reward of its own rollouts in the last part of the run, in [0, 1].

    Its control is what a model that never answers scores. Other rounds have no score. Measured of each arm are the
    rewards of own rollouts and of held-out questions, how much they rose, the differences to the arms that do not
    share, paired by seed, and the cumulative rewards of the paper and of its fork. Intervals are over seeds; with
    one seed over its nodes, which says nothing of other seeds.
    """

    part: float = field(
        default=PART, metadata={"help": "share of the rounds that are the first and the last part of a run"}
    )

    def __post_init__(self) -> None:
        refuse_outside(self, part=Bounds(0, 0.5, over=True))

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> SapoOfRun:
        """The grader for the outputs of a run, whose settings say how rewards are to be read."""
        return SapoOfRun(context_of(run, self.part))


@dataclass(frozen=True)
class SapoOfRun:
    """The grader of one run, before it has seen the records."""

    context: Context

    @contextmanager
    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> Iterator[SapoMeasures]:
        """Read all rounds. No model is asked."""
        yield SapoMeasures(Comparison(read_swarms(outputs), self.context))


class SapoMeasures:
    """The grader after it has seen all rounds."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._swarms = {(one.arm.name, one.seed): one for one in comparison.swarms}

    @property
    def mixes(self) -> str:
        """What the scores are of, where that makes their mean say nothing."""
        return "arms" if len(self._comparison.arms) > 1 else ""

    def grade(self, output: Output) -> Grade:
        """The score of a last round; for anything else none is due."""
        named = SERIES.fullmatch(output.task)
        swarm = self._swarms.get((named["arm"], int(named["seed"]))) if named else None
        if named is None or swarm is None:
            return Grade(None, "not a round of an arm with a seed")
        try:
            number = RoundMetrics.from_text(output.text or "").round
        except ValueError:
            return Grade(None, "not the metrics of a round")
        if number < swarm.rounds - 1:
            return Grade(None, "not the last round", due=False)
        found = self._comparison.figures.own.of(swarm, swarm.done)
        rewards = [value for node, value in found.items() if named["node"] in (None, str(node))]
        if not rewards:
            return Grade(None, "no own rollouts: what it learned is in eval_pass1", due=False)
        if not all(0.0 <= one <= 1.0 for one in rewards):
            return Grade(None, "a mean reward of own rollouts that is not in 0 to 1")
        silent = self._comparison.context.never_answers
        return Grade(fmean(rewards), controls={} if silent is None else {SILENT: silent})

    def measures(self) -> Iterator[Measured]:
        """The figures of every arm, each beside its control, and what has to be known to read them."""
        for arm in self._comparison.arms:
            yield from measured(self._comparison, arm)
        for one in findings(self._comparison):
            if one.name:
                yield Measured(one.arm, f"{one.weight}: {one.name}", round(one.value, DIGITS), one.n)


def measured(comparison: Comparison, arm: str) -> Iterator[Measured]:
    """The figures of an arm, in the order in which they are shown."""
    figures, silent = comparison.figures, comparison.context.never_answers
    yield from _beside(comparison, arm, figures.own, silent, SILENT)
    yield from _beside(comparison, arm, figures.held_out, comparison.context.never_right, SILENT)
    for figure in (figures.own_rise, figures.held_out_rise):
        yield from _beside(comparison, arm, figure, 0.0, FIRST)
    yield from differences(comparison, arm)
    for figure in (figures.cumulative, figures.completions):
        yield from _beside(comparison, arm, figure, silent_total(comparison, arm, figure), SILENT)
    shown = figures.train, figures.dead, figures.tagged, figures.taken, figures.age, figures.written
    for figure in shown:
        yield from _beside(comparison, arm, figure, None, "")


def differences(comparison: Comparison, arm: str) -> Iterator[Measured]:
    """The differences to the arms that it is compared with, in reward_own and eval_pass1."""
    figures = comparison.figures
    for control in comparison.controls(arm):
        for figure in (figures.own, figures.held_out):
            found = comparison.paired(arm, control, figure)
            if found is None:
                continue
            wrote = "" if found.wrote is None else f", {found.wrote:.3g} x its completions"
            by = "seed" if found.over == "seeds" else "node of one seed"
            name, against = f"{figure.name} minus that of {control}", f"{control}, paired by {by}{wrote}"
            value, interval = round(found.found.mean, DIGITS), _rounded(found.found.interval)
            yield Measured(arm, name, value, found.found.n, interval, *NO_EFFECT, against, "higher")


def silent_total(comparison: Comparison, arm: str, figure: Figure) -> float | None:
    """What a model that never answers adds up to, in the unit of a cumulative figure: the mean over the arm's seeds."""
    silent, swarms = comparison.context.never_answers, comparison.of(arm)
    if silent is None or not swarms:
        return None
    if figure is comparison.figures.completions:
        written = [comparison.figures.written.value(one, one.done) or 0.0 for one in swarms]
        return silent * sum(written) / len(swarms)
    rounds = sum(len(node.values("reward_train")) for one in swarms for node in one.nodes.values())
    return silent * rounds / len(swarms)


def _beside(
    comparison: Comparison, arm: str, figure: Figure, control: float | None, against: str
) -> Iterator[Measured]:
    """A figure beside a control that has no uncertainty of its own."""
    own = comparison.summary(arm, figure)
    if own is None:
        return
    name, value, interval = named(comparison, arm, figure, own), round(own.mean, DIGITS), _rounded(own.interval)
    if control is None:
        yield Measured(arm, name, value, own.n, interval, better=figure.better)
        return
    known = round(control, DIGITS)
    yield Measured(arm, name, value, own.n, interval, known, (known, known), against, figure.better)


def named(comparison: Comparison, arm: str, figure: Figure, own: Summary) -> str:
    """The name of a figure as it is shown: of which rounds, in which unit, and over what its interval is."""
    figures = comparison.figures
    said = {
        figures.own.name: "reward_own, last part",
        figures.held_out.name: "eval_pass1, last part",
        figures.train.name: "reward_train, last part",
        figures.cumulative.name: "cumulative (paper)",
        figures.completions.name: "cumulative (fork)",
    }.get(figure.name, figure.name)
    so_far = "" if all(one.whole for one in comparison.of(arm)) else ", so far"
    over = ", over nodes" if own.over == "nodes" and own.n > 1 else ""
    return f"{said}{so_far}{over}"


def _rounded(interval: Interval | None) -> Interval | None:
    return None if interval is None else (round(interval[0], DIGITS), round(interval[1], DIGITS))

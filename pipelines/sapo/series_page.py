"""One series on the page: its rounds, and its nodes in the last of them, folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from hybrid.metrics import RoundMetrics
from hybrid.report.curves import metrics_of
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.round_tables import folded, metrics_table
from hybrid.report.section import TaskView
from hybrid.report.sources import TaskResult
from pipelines.sapo.results import NODE, SERIES

METRICS = (
    "reward_own", "eval_pass1", "reward_train", "cumulative", "n_own", "n_ext", "ext_wanted", "ext_pool",
    "ext_of_one", "ext_age_mean", "ext_age_max", "dead", "tagged", "ended", "tokens_generated", "tokens_trained",
    "loss", "gradient_norm", "refused", "skipped", "no_room", "left_out",
)  # fmt: skip
"""Metrics of a round or node, as far as it has them."""
MOST_NODES = 64


def series_page(shown: TaskView, wanted: Sequence[bool]) -> Html:
    """The series in each run that has it; nothing for tasks of another kind."""
    if not SERIES.fullmatch(shown.task):
        return Html("")
    parts = []
    for run, part, drawn in zip(shown.runs, shown.parts, wanted, strict=True):
        if part and drawn:
            parts += [el("h4", run.label) if shown.several else Html(""), _series(part, shown.longest)]
    return join(parts)


def _series(part: TaskResult, longest: int) -> Html:
    outputs = [output for result in part.questions for output in result.outputs]
    failed = [one.error.message for one in outputs if one.error is not None]
    said = [el("p", truncated(failed[0], longest), cls="error")] if failed else []
    rounds = sorted((one for output in outputs if (one := metrics_of(output))), key=lambda one: one.round)
    if not rounds:
        return join(said)
    rows = {f"{one.round:,}": _means(one) for one in rounds}
    said.append(folded(count_of(len(rounds), "round"), metrics_table("round", rows, METRICS)))
    if left := len(part.scores) - len(part.questions):
        said.append(el("p", f"{count_of(left, 'more round')} not shown; metrics.csv has all", cls="none"))
    nodes = {name: one for name, one in rounds[-1].groups.items() if NODE.fullmatch(name)}
    if len(nodes) > 1:
        name = f"{count_of(len(nodes), 'node')} in round {rounds[-1].round:,}"
        said.append(folded(name, metrics_table("node", dict(list(nodes.items())[:MOST_NODES]), METRICS)))
    return join(said)


def _means(found: RoundMetrics) -> Mapping[str, float]:
    """The metrics of a round: its own, else the means over its nodes."""
    if found.metrics:
        return found.metrics
    nodes = [one for name, one in found.groups.items() if NODE.fullmatch(name)]
    names = {name for one in nodes for name in one}
    return {name: fmean(one[name] for one in nodes if name in one) for name in names}

"""One series on the page: its rounds, and its clients in the last of them, folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.metrics import RoundMetrics
from hybrid.report.curves import metrics_of
from hybrid.report.formatting import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.round_tables import folded, metrics_table
from hybrid.report.section import TaskView
from hybrid.report.sources import TaskResult
from pipelines.atlas.results import CLIENT, NAME

ROUND = (
    "accuracy", "accuracy_worst", "loss", "train_loss", "f1", "mcc", "upload_bytes", "download_bytes",
    "aggregation_error", "clusters", "clients", "left_out", "virtual_seconds",
)  # fmt: skip
"""Metrics of a round, as far as a round has them."""
OF_CLIENT = (
    "accuracy", "majority", "dev_accuracy", "dev_f1", "dev_mcc", "dev_majority", "loss", "train_loss", "samples",
    "steps", "rank", "cluster", "moved", "upload_bytes", "download_bytes",
)  # fmt: skip
MOST_CLIENTS = 200
NAMES = {"upload_bytes": "MB sent", "download_bytes": "MB fetched"}


def series_page(shown: TaskView, wanted: Sequence[bool]) -> Html:
    """The series in each run that has it; nothing for tasks of another kind."""
    if not NAME.fullmatch(shown.task):
        return Html("")
    parts = []
    for run, part, drawn in zip(shown.runs, shown.parts, wanted, strict=True):
        if part and drawn:
            parts += [el("h4", run.label) if shown.several else Html(""), _series(part, shown.longest)]
    return join(parts)


def _series(part: TaskResult, longest: int) -> Html:
    rounds = [one for result in part.questions for output in result.outputs if (one := metrics_of(output))]
    failed = [
        output.error.message for result in part.questions for output in result.outputs if output.error is not None
    ]
    said = [el("p", truncated(failed[0], longest), cls="error")] if failed else []
    if not rounds:
        return join(said)
    rounds.sort(key=lambda one: one.round)
    rows = {f"{one.round + 1:,}": one.metrics for one in rounds}
    groups = {name: one for name, one in rounds[-1].groups.items() if name.startswith(CLIENT)}
    left = len(part.scores) - len(part.questions)
    said.append(folded(count_of(len(rounds), "round"), metrics_table("round", rows, ROUND, NAMES)))
    if left:
        said.append(el("p", f"{count_of(left, 'more round')} not shown", cls="none"))
    if groups:
        some = dict(list(groups.items())[:MOST_CLIENTS])
        said.append(folded(_clients(groups, rounds[-1]), metrics_table("client", some, OF_CLIENT, NAMES)))
    return join(said)


def _clients(groups: Mapping[str, Mapping[str, float]], last: RoundMetrics) -> str:
    more = f", {MOST_CLIENTS} shown" if len(groups) > MOST_CLIENTS else ""
    return f"{count_of(len(groups), 'client')} in round {last.round + 1:,}{more}"

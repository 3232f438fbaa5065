"""Metrics over rounds, of any pipeline whose records hold them (`hybrid.metrics`): one chart a metric.

Runs whose settings differ in the seed alone are one line: their mean, with a band from the lowest to the highest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from hybrid.canonical import encode
from hybrid.metrics import RoundMetrics
from hybrid.records import Output
from hybrid.report.line_charts import Line, line_chart, number
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Scope, Section, TaskView
from hybrid.report.sources import ReportRun
from hybrid.report.words import count

MOST_CHARTS = 40
"""Metrics that are drawn; the others are counted."""
MOST_VALUES = 2_000_000
"""Values of a run that are drawn; that there are more is said."""
MOST_COLUMNS = 12
"""Metrics in the table of a task."""

Key = tuple[str, str, str]
"""Metric, task, group; no group is the round as a whole."""
Series = dict[Key, dict[int, float]]


@dataclass(frozen=True)
class Curves(Section):
    """Draws every metric over the rounds."""

    scope: ClassVar[Scope] = "general"
    title: ClassVar[str] = "Curves"

    def wants(self, run: ReportRun) -> bool:
        """A run among whose first records are metrics of rounds."""
        return any(metrics_of(output) for output in run.some_outputs())

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """One chart a metric, and how many seeds are behind its lines."""
        together = _together(runs)
        lines: dict[str, list[tuple[Key, Line]]] = {}
        notes = []
        for label, group in together:
            series = [_series(run) for run in group]
            notes += [_too_many(run) for run, each in zip(group, series, strict=True) if _size(each) >= MOST_VALUES]
            if len(group) > 1:
                notes.append(_seeds(label, group))
            for key in sorted({key for each in series for key in each}, key=lambda key: (key[2] != "", key)):
                lines.setdefault(key[0], []).append((key, _line(_name(label, key, series), key, series)))
        charts = [line_chart(metric, [line for _, line in lines[metric]]) for metric in sorted(lines)[:MOST_CHARTS]]
        if left := len(lines) - len(charts):
            notes.append(el("p", f"{count(left, 'more metric')} not drawn.", cls="none"))
        return join([*notes, el("div", *charts, cls="all-series")])

    def task(self, shown: TaskView) -> Html:
        """The rounds of a task as a table."""
        tables = [
            join([el("h4", run.label) if shown.several else "", _table(rounds)])
            for run, part in zip(shown.runs, shown.parts, strict=True)
            if (rounds := [one for asked in (part.asked if part else ()) for one in _rounds(asked.outputs)])
        ]
        left = [el("p", f"{count(shown.left_out(), 'more round')} not shown", cls="none")] if shown.left_out() else []
        return join([*tables, *left]) if tables else Html("")

    def style(self) -> str:
        """Of the charts."""
        return files("hybrid.report").joinpath("curves.css").read_text(encoding="utf-8")


def metrics_of(output: Output) -> RoundMetrics | None:
    """The metrics in a record; None when it holds none."""
    try:
        return RoundMetrics.from_text(output.text or "")
    except ValueError:
        return None


def _rounds(outputs: Sequence[Output]) -> Iterator[RoundMetrics]:
    return (found for output in outputs if (found := metrics_of(output)))


def _series(run: ReportRun) -> Series:
    """Everything that a run measured."""
    series: Series = {}
    held = 0
    with closing(run.outputs.records()) as records:
        for output in records:
            found = metrics_of(output)
            if found is None:
                continue
            if held >= MOST_VALUES:
                break
            for group, metrics in {"": found.metrics, **found.groups}.items():
                for metric, value in metrics.items():
                    series.setdefault((metric, output.task, group), {})[found.round] = float(value)
                    held += 1
    return series


def _size(series: Series) -> int:
    return sum(map(len, series.values()))


def _too_many(run: ReportRun) -> Html:
    return el("p", f"{run.label} has more than {MOST_VALUES:,} values; the first are drawn.", cls="none")


def _together(runs: Sequence[ReportRun]) -> list[tuple[str, list[ReportRun]]]:
    """Runs that differ in their seed alone, under the name of their lines; "" when all runs are of one kind."""
    groups: dict[bytes, list[ReportRun]] = {}
    for run in runs:
        groups.setdefault(_kind(run), []).append(run)
    named = len(groups) > 1
    return [(group[0].label if named else "", group) for group in groups.values()]


def _kind(run: ReportRun) -> bytes:
    """What runs have in common that differ in the seed alone."""
    spec, settings = run.outputs.run, run.outputs.run.get("settings")
    if not run.pipeline or not isinstance(settings, Mapping) or "seed" not in settings:
        return run.label.encode()
    others = {name: value for name, value in settings.items() if name != "seed"}
    model = [spec.get(name) for name in ("backend", "model", "model_digest", "models")]
    return encode([run.pipeline, others, model])


def _seeds(label: str, group: Sequence[ReportRun]) -> Html:
    seeds = ", ".join(str(run.outputs.run["settings"]["seed"])[:20] for run in group[:20])
    line = f"{label}: a line" if label else "A line"
    mean = f"{line} is the mean of {len(group)} runs that differ in their seed alone ({seeds})"
    band = "its band goes from the lowest to the highest of them. Rounds that not all of them have are left out."
    return el("p", f"{mean}, {band}", cls="note")


def _name(label: str, key: Key, series: Sequence[Series]) -> str:
    """Run, task and group, as far as they tell lines of the chart apart."""
    tasks = {task for each in series for metric, task, _ in each if metric == key[0]}
    parts = [label, key[1] if len(tasks) > 1 else "", key[2]]
    return " · ".join(part for part in parts if part) or "all"


def _line(name: str, key: Key, series: Sequence[Series]) -> Line:
    """A line of one run, or the mean of several over the rounds that all of them have."""
    found = [each.get(key, {}) for each in series]
    if len(found) == 1:
        return Line(name, found[0])
    common = set[int](found[0]).intersection(*found[1:])
    values = {number: [each[number] for each in found] for number in common}
    means = {number: sum(each) / len(each) for number, each in values.items()}
    return Line(name, means, {number: (min(each), max(each)) for number, each in values.items()})


def _table(rounds: Sequence[RoundMetrics]) -> Html:
    names = sorted({name for one in rounds for name in one.metrics})
    shown = names[:MOST_COLUMNS]
    head = el("tr", el("th", "round", scope="col"), *(el("th", name, scope="col", cls="n") for name in shown))
    rows = [
        el(
            "tr",
            el("th", f"{one.round:,}", scope="row"),
            *(el("td", number(one.metrics[name]) if name in one.metrics else "–", cls="n") for name in shown),
        )
        for one in sorted(rounds, key=lambda one: one.round)
    ]
    more = el("p", f"{count(len(names) - len(shown), 'more metric')} in the curves", cls="none")
    table = el("div", el("table", el("thead", head), el("tbody", *rows)), cls="scroll rounds", tabindex="0")
    return join([table, more] if len(names) > len(shown) else [table])

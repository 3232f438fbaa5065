"""Metrics over rounds for every pipeline whose records hold them (`hybrid.metrics`): one chart per metric.

Runs whose settings differ only in the seed are one line: their mean, with a band from the lowest to the highest. So are
tasks of a run whose names differ only in `/seed-N`. Metrics that never change are named, not drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from hybrid.canonical import encode
from hybrid.metrics import PHASE, RoundMetrics
from hybrid.records import Output
from hybrid.report.formatting import count_of
from hybrid.report.line_charts import Line, line_chart, number
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Scope, Section, TaskView
from hybrid.report.sources import ReportRun

MAX_CHARTS = 40
"""Most metrics that are drawn; the others are counted."""
MAX_VALUES = 2_000_000
"""Most values of a run that are drawn; a note says when there are more."""
MAX_WITH_GROUPS = 24
"""Lines of a chart from which on those of groups are counted, not drawn, beside lines of whole rounds."""
SEED = re.compile(r"/seed-(\d{1,15})(?=/|$)")
MAX_COLUMNS = 12
"""Most metrics in the table of a task."""

Key = tuple[str, str, str]
"""Metric, task, group; the group "" is the whole round."""
Series = dict[Key, dict[int, float]]


@dataclass(frozen=True)
class Curves(Section):
    """One chart per metric over the rounds."""

    scope: ClassVar[Scope] = "general"
    title: ClassVar[str] = "Curves"

    def wants(self, run: ReportRun) -> bool:
        """Whether metrics of rounds are among the first records of the run."""
        return any(metrics_of(output) for output in run.first_outputs())

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """One chart per metric, with notes on seeds and on what is not drawn."""
        groups = _grouped_by_seed(runs)
        lines: dict[str, list[tuple[Key, Line]]] = {}
        notes = []
        for label, group in groups:
            read = [_series(run) for run in group]
            notes += [_truncation_note(run) for run, each in zip(group, read, strict=True) if _size(each) >= MAX_VALUES]
            series = [one for each in read for one in _by_seed(each)]
            if len(series) > len(read):
                notes.append(el("p", REPEATS, cls="note"))
            if len(group) > 1:
                notes.append(_seed_note(label, group))
            several = len({task for each in series for _, task, _ in each}) > 1
            for key in sorted({key for each in series for key in each}, key=lambda key: (key[2] != "", key)):
                name = _name(label, key, several=several)
                if (line := _line(name, key, series)).points:
                    lines.setdefault(key[0], []).append((key, line))
        still = [metric for metric in sorted(lines) if _is_still(lines[metric])]
        moving = [metric for metric in sorted(lines) if metric not in still]
        charts = [_chart(metric, lines[metric]) for metric in moving[:MAX_CHARTS]]
        once = [metric for metric in still if _is_of_one_round(lines[metric])]
        level = [metric for metric in still if metric not in once]
        for names, why in ((level, "do not change from round to round"), (once, "are of one round only")):
            if names:
                notes.append(el("p", _still_note([(name, lines[name]) for name in names], why), cls="none"))
        if left := len(moving) - len(charts):
            notes.append(el("p", f"{count_of(left, 'more metric')} not drawn.", cls="none"))
        return join([*notes, el("div", *charts, cls="all-series")])

    def task(self, shown: TaskView) -> Html:
        """A table of the rounds of a task."""
        tables = [
            join([el("h4", run.label) if shown.several else "", _table(rounds)])
            for run, part in zip(shown.runs, shown.parts, strict=True)
            if (rounds := [one for result in (part.questions if part else ()) for one in _rounds(result.outputs)])
        ]
        left = (
            [el("p", f"{count_of(shown.left_out(), 'more round')} not shown", cls="none")] if shown.left_out() else []
        )
        return join([*tables, *left]) if tables else Html("")

    def style(self) -> str:
        """The CSS of the charts."""
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
    """All metrics of a run, up to MAX_VALUES values.

    Of a group's line that is only counted, beside too many others, its first value stands for it.
    """
    series: Series = {}
    lines: dict[str, set[tuple[str, str]]] = {}
    held = 0
    with closing(run.outputs.records()) as records:
        for output in records:
            found = metrics_of(output)
            if found is None:
                continue
            if held >= MAX_VALUES:
                break
            name = SEED.sub("", output.task)
            for group, metrics in {"": found.metrics, **found.groups}.items():
                for metric, value in metrics.items():
                    if metric == PHASE:
                        continue
                    known = lines.setdefault(metric, set())
                    known.add((name, group))
                    points = series.setdefault((metric, output.task, group), {})
                    if not points or not group or metric not in found.metrics or len(known) <= MAX_WITH_GROUPS:
                        points[found.round] = float(value)
                        held += 1
    return series


def _size(series: Series) -> int:
    return sum(map(len, series.values()))


REPEATS = (
    "A line is the mean of the series that differ only in their seed; its band extends from the lowest to the highest. "
    "Rounds that some of them lack are left out."
)


def _by_seed(series: Series) -> list[Series]:
    """The series of each seed, under the names that they have without it; all in one where names do not repeat."""
    tasks = {task for _, task, _ in series}
    names = [SEED.sub("", task) for task in tasks]
    repeated = {name for name in names if names.count(name) > 1}
    found: dict[str, Series] = {}
    for (metric, task, group), points in series.items():
        name, seed = SEED.sub("", task), SEED.search(task)
        if name in repeated and seed:
            found.setdefault(seed[1], {})[metric, name, group] = points
        else:
            found.setdefault("", {})[metric, task, group] = points
    return [found[seed] for seed in sorted(found)]


def _is_still(lines: Sequence[tuple[Key, Line]]) -> bool:
    """Whether a metric shows nothing over rounds: there is one, or all lines are level, at one height or of groups."""
    return _is_of_one_round(lines) or _is_level(lines)


def _is_of_one_round(lines: Sequence[tuple[Key, Line]]) -> bool:
    return len({number for _, line in lines for number in line.points}) == 1


def _is_level(lines: Sequence[tuple[Key, Line]]) -> bool:
    level = all(len({*one.points.values()}) == 1 and len({*one.band.values()}) < 2 for _, one in lines)
    heights = {value for _, line in lines for value in line.points.values()}
    return level and (len(heights) == 1 or all(group for (_, _, group), _ in lines))


def _still_note(metrics: Sequence[tuple[str, Sequence[tuple[Key, Line]]]], why: str) -> str:
    """Metrics that are not drawn, with their values, and why."""
    told = []
    for name, lines in metrics[:MAX_CHARTS]:
        values = sorted({value for _, line in lines for value in line.points.values()})
        ends = [number(value) for value in dict.fromkeys((values[0], values[-1]))]
        told.append(f"{name} ({' to '.join(ends)})")
    left = len(metrics) - len(told)
    more = f" and {left:,} more" if left else ""
    return f"Not drawn, since they {why}: {', '.join(told)}{more}."


def _chart(metric: str, lines: Sequence[tuple[Key, Line]]) -> Html:
    """The chart of a metric: of very many lines only those of whole rounds, if there are any."""
    whole = [line for (_, _, group), line in lines if not group]
    if whole and len(lines) > MAX_WITH_GROUPS:
        return line_chart(metric, whole, left_out=len(lines) - len(whole))
    return line_chart(metric, [line for _, line in lines])


def _truncation_note(run: ReportRun) -> Html:
    return el("p", f"{run.label} has more than {MAX_VALUES:,} values; the first are drawn.", cls="none")


def _grouped_by_seed(runs: Sequence[ReportRun]) -> list[tuple[str, list[ReportRun]]]:
    """Groups of runs that differ only in the seed, with the label of their lines: "" for a single group."""
    groups: dict[bytes, list[ReportRun]] = {}
    for run in runs:
        groups.setdefault(_key_without_seed(run), []).append(run)
    named = len(groups) > 1
    return [(group[0].label if named else "", group) for group in groups.values()]


def _key_without_seed(run: ReportRun) -> bytes:
    """A key that is the same for runs that differ only in the seed."""
    spec, settings = run.outputs.run, run.outputs.run.get("settings")
    if not run.pipeline or not isinstance(settings, Mapping) or "seed" not in settings:
        return run.label.encode()
    others = {name: value for name, value in settings.items() if name != "seed"}
    model = [spec.get(name) for name in ("backend", "model", "model_digest", "models")]
    return encode([run.pipeline, others, model])


def _seed_note(label: str, group: Sequence[ReportRun]) -> Html:
    seeds = ", ".join(str(run.outputs.run["settings"]["seed"])[:20] for run in group[:20])
    line = f"{label}: a line" if label else "A line"
    mean = f"{line} is the mean of {len(group)} runs that differ only in their seed ({seeds})"
    band = "its band extends from the lowest to the highest. Rounds that some of them lack are left out."
    return el("p", f"{mean}, {band}", cls="note")


def _name(label: str, key: Key, *, several: bool) -> str:
    """The name of a line: run, task (of several) and group, as far as they distinguish the lines of a chart."""
    parts = [label, key[1] if several else "", key[2]]
    return " · ".join(part for part in parts if part) or "all"


def _line(name: str, key: Key, series: Sequence[Series]) -> Line:
    """The line of one run, or the mean of several over the rounds that all have."""
    found = [each[key] for each in series if key in each]
    if len(found) == 1:
        return Line(name, found[0])
    common = set[int](found[0]).intersection(*found[1:])
    values = {number: [each[number] for each in found] for number in common}
    means = {number: sum(each) / len(each) for number, each in values.items()}
    return Line(name, means, {number: (min(each), max(each)) for number, each in values.items()})


def _table(rounds: Sequence[RoundMetrics]) -> Html:
    names = sorted({name for one in rounds for name in one.metrics})
    shown = names[:MAX_COLUMNS]
    head = el("tr", el("th", "round", scope="col"), *(el("th", name, scope="col", cls="n") for name in shown))
    rows = [
        el(
            "tr",
            el("th", f"{one.round:,}", scope="row"),
            *(el("td", number(one.metrics[name]) if name in one.metrics else "–", cls="n") for name in shown),
        )
        for one in sorted(rounds, key=lambda one: one.round)
    ]
    more = el("p", f"{count_of(len(names) - len(shown), 'more metric')} in the curves", cls="none")
    table = el("div", el("table", el("thead", head), el("tbody", *rows)), cls="scroll rounds", tabindex="0")
    return join([table, more] if len(names) > len(shown) else [table])

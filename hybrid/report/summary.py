"""The results: score, controls and figures with their intervals, and what could not be graded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybrid.execution.stage_view import StageView
from hybrid.report.charts import interval_plot
from hybrid.report.formatting import count_of, display_name, interval_text, percent
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Measure
from hybrid.report.sections import Sections
from hybrid.report.sources import ReportRun, Totals

INTERVALS = (
    "Intervals are 95 % intervals. What could not be graded is not part of the score and not counted as wrong; its "
    "number is shown beside the score. An output whose generation failed is neither right nor wrong."
)


def headline(runs: Sequence[ReportRun], totals: Sequence[Totals], sections: Sections) -> Html:
    """The result of every run in one sentence, and below it what is known of its judge."""
    parts = []
    for run, total in zip(runs, totals, strict=True):
        name = f"{run.label}: " if len(runs) > 1 else ""
        if run.unfinished or total.failed["missing"]:
            parts.append(_unfinished(name, run, total))
        own = sections.headline(run)
        parts.append(el("p", name, own) if own else _sentence(name, run, total))
        parts += [el("p", line, cls="judge") for line in (run.grades.summary["judge"] if run.grades else ())]
    return el("div", *parts, cls="lede")


def _unfinished(name: str, run: ReportRun, total: Totals) -> Html:
    """A sentence that the run is not finished, with its present state."""
    if run.unfinished is None:
        there = total.outputs - total.failed["missing"]
        text = f": {there:,} of {count_of(total.outputs, 'output')} are there so far."
    else:
        done = sum(stage.left == 0 for stage in run.unfinished.stages)
        text = (
            f": {done} of {count_of(len(run.unfinished.stages), 'stage')} are done; shown is '{run.unfinished.shown}'."
        )
    return el("p", name, el("b", "not finished"), text)


def _sentence(name: str, run: ReportRun, total: Totals) -> Html:
    if run.grades is None:
        return el(
            "p",
            name,
            el("b", "not graded"),
            f": {count_of(total.outputs, 'output')} to {count_of(total.questions, 'question')}, shown without scores.",
        )
    summary = run.grades.summary
    unit = summary["unit"]
    if summary["score"] is None:
        none = f"none of {count_of(summary['questions'], 'question')} could be graded"
        return el("p", name, el("b", "no score"), f": {none if _is_due(summary) else summary['method']}.")
    return el(
        "p",
        name,
        el("b", percent(summary["score"])),
        f" of {count_of(summary['n'], unit)}, 95 % interval ",
        el("b", interval_text(summary["interval"])),
        f"; {count_of(summary['ungraded'], unit)} ungraded.",
        _arms(summary),
    )


def _is_due(summary: Mapping[str, Any]) -> bool:
    """Whether a mean is to be expected: not of scores that have none, nor where nothing is to be graded."""
    return not summary["n"] and (summary["ungraded"] > 0 or not summary["not_due"])


def _arms(summary: Mapping[str, Any]) -> str:
    """The scores of the further arms, behind that of the first; "" without arms."""
    first, *others = summary["arms"] or [""]
    known = [f"{name} {percent(value['mean'])}" for name in others if (value := summary["controls"].get(name))]
    return f" This is the arm {first}; the others: {', '.join(known)}." if known else ""


def results_table(runs: Sequence[ReportRun], totals: Sequence[Totals], sections: Sections) -> Html:
    """Score, controls and figures: a table with plots for one run, a column per run for several."""
    drawn = _single_run(runs[0], totals[0], sections) if len(runs) == 1 else _side_by_side(runs, totals, sections)
    return join([drawn, *(_stages(run, len(runs) > 1) for run in runs if run.unfinished)])


def _single_run(run: ReportRun, total: Totals, sections: Sections) -> Html:
    counted = _counts(run, total).items()
    facts = el("dl", *(part for name, value in counted for part in (el("dt", name), el("dd", value))), cls="counts")
    if run.grades is None:
        return el("div", facts, cls="result")
    names = (("", None), ("mean", "n"), ("95 % interval", "n"), ("n", "n"))
    head = el(
        "tr", *(el("th", name, scope="col", cls=cls) for name, cls in names), el("th", _axis(), scope="col", cls="axis")
    )
    rows = [_row(name, value, kind) for name, kind, value in _measures(run, sections)]
    if not rows:
        return el("div", facts, cls="result")
    return el("div", el("table", el("thead", head), el("tbody", *rows), cls="scores"), facts, cls="result")


def _side_by_side(runs: Sequence[ReportRun], totals: Sequence[Totals], sections: Sections) -> Html:
    """One row per measure, one column per run; the counts below."""
    measured = [{name: (kind, value) for name, kind, value in _measures(run, sections)} for run in runs]
    names = dict.fromkeys(name for column in measured for name in column)
    rows = [_measure_row(name, [column.get(name) for column in measured]) for name in names]
    counted = [_counts(run, total) for run, total in zip(runs, totals, strict=True)]
    for name in dict.fromkeys(name for column in counted for name in column):
        cells = [el("td", column.get(name, "–")) for column in counted]
        rows.append(el("tr", el("th", name, scope="row"), *cells, cls="control"))
    head = el("tr", el("th", "", scope="col"), *(el("th", run.label, scope="col") for run in runs))
    return el(
        "div", el("table", el("thead", head), el("tbody", *rows), cls="scores beside"), cls="scroll", tabindex="0"
    )


def _stages(run: ReportRun, several: bool) -> Html:
    """The status of each stage of an unfinished run."""
    names = ("stage", "items", "with an answer", "failed", "without a record")
    head = el("tr", *(el("th", name, scope="col", cls="n" if name != "stage" else None) for name in names))
    rows = [_stage(stage) for stage in (run.unfinished.stages if run.unfinished else ())]
    label = el("h4", run.label) if several else Html("")
    table = el("table", el("thead", head), el("tbody", *rows), cls="stages")
    return join([label, el("div", table, cls="scroll", tabindex="0")])


def _stage(stage: StageView) -> Html:
    if stage.total is None:
        waits = el("td", "not known yet: it waits for the stages before it", colspan=4, cls="none")
        return el("tr", el("th", stage.name, scope="row"), waits)
    answered = (stage.total, stage.done - stage.failed, stage.failed, stage.total - stage.done)
    told = [f"{number:,}" for number in answered]
    told[0] += " so far" if stage.so_far else ""
    return el("tr", el("th", stage.name, scope="row"), *(el("td", text, cls="n") for text in told))


def _measure_row(name: str, columns: Sequence[tuple[str, Measure] | None]) -> Html:
    kind = next(column[0] for column in columns if column)
    cells = [el("td", *_cell(name, *column)) if column else el("td", "–") for column in columns]
    return el("tr", el("th", name, scope="row"), *cells, cls=kind)


def _cell(name: str, kind: str, value: Measure) -> tuple[Html, ...]:
    plot = interval_plot(value["mean"], value["interval"], _aria_label(name, value), kind=kind)
    return el("b", percent(value["mean"])), el("small", f" {interval_text(value['interval'])}, n {value['n']:,}"), plot


def _measures(run: ReportRun, sections: Sections) -> Iterator[tuple[str, str, Measure]]:
    """Yield (name, kind, measure) of the score, the controls and the figures in the order of the page."""
    if run.grades is None:
        return
    summary, names = run.grades.summary, sections.names
    if summary["score"] is not None or _is_due(summary):
        main = {"mean": summary["score"], "n": summary["n"], "interval": summary["interval"]}
        first, *others = summary["arms"] or [""]
        yield f"Score ({run.grader}, by {run.unit}){f' of {first}' if first else ''}", "score", main
        for name in others:
            yield f"Score of {name}", "score", summary["controls"].get(name, {"mean": None, "n": 0, "interval": None})
    for name, value in summary["controls"].items():
        if name in summary["arms"]:
            continue
        yield f"Control: {display_name(name, names)}", "control", value
    figures, known = sections.figures(run, run.figures), list(names)
    for name in sorted(figures, key=lambda name: (known.index(name) if name in known else len(known), name)):
        yield display_name(name, names), "figure", figures[name]


def _axis() -> Html:
    return el("span", *(el("span", label) for label in ("0", "25", "50", "75", "100 %")), cls="ticks")


def _row(name: str, value: Measure, kind: str) -> Html:
    return el(
        "tr",
        el("th", name, scope="row"),
        el("td", percent(value["mean"]), cls="n"),
        el("td", interval_text(value["interval"]), cls="n"),
        el("td", f"{value['n']:,}", cls="n"),
        el("td", interval_plot(value["mean"], value["interval"], _aria_label(name, value), kind=kind), cls="plotted"),
        cls=kind,
    )


def _aria_label(name: str, value: Measure) -> str:
    return f"{name}: {percent(value['mean'])}, interval {interval_text(value['interval'])}"


def _counts(run: ReportRun, total: Totals) -> dict[str, str]:
    """The counts behind the score: questions, outputs, failures and reasons, zeros included."""
    if run.grades is None:
        return {
            "Questions": f"{total.questions:,}",
            "Outputs": f"{total.outputs:,}",
            "Failed outputs": _count_with_reasons(dict(sorted(total.failed.items()))),
            "Scores": "none: the run is not finished"
            if run.unfinished
            else f"none yet: hybrid grade {run.outputs.path}",
        }
    summary = run.grades.summary
    return {
        "Questions": f"{summary['questions']:,}",
        "Outputs": f"{summary['outputs']:,}",
        f"Ungraded {run.unit}s": f"{summary['ungraded']:,}{_reasons(summary['reasons'])}",
        "Ungraded outputs": _count_with_reasons(summary["ungraded_outputs"]),
        **({"Not to be graded": _count_with_reasons(summary["not_due"])} if summary["not_due"] else {}),
        "Failed outputs": _count_with_reasons(summary["failed"]),
        "Interval" if summary["score"] is not None or _is_due(summary) else "Score": summary["method"] or "not named",
    }


def _count_with_reasons(reasons: Mapping[str, int]) -> str:
    return f"{sum(reasons.values()):,}{_reasons(reasons)}"


def _reasons(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {number:,}' for name, number in reasons.items())})" if reasons else ""


def reading_notes(runs: Sequence[ReportRun], sections: Sections) -> Html:
    """Notes on how to read the numbers."""
    lines = ([INTERVALS] if any(run.grades for run in runs) else []) + sections.notes()
    return el("div", *(el("p", line) for line in lines), cls="note") if lines else Html("")

"""The head of the page: what came out, with intervals, controls, and all that could not be judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from hybrid.report.charts import interval_plot
from hybrid.report.markup import Html, el
from hybrid.report.self_edits import is_point
from hybrid.report.sources import Source
from hybrid.report.words import NAMES, called, count, percent, span
from hybrid.statistics.intervals import paired_difference

Measure: TypeAlias = Mapping[str, Any]
"""`mean`, `n` and `interval` of a score, a control or a figure."""

INTERVALS = (
    "An interval is 95 %. What could not be graded is not in the score and is not counted as wrong; it stands beside "
    "it. An output that failed to be generated is no answer, right or wrong."
)

VOTED = (
    "Two attempts are taken from a vote over several views of each question (outputs a question here: {views}). "
    "A question is right when one attempt equals the truth cell by cell, a task when all its test inputs are right. "
    "That is pass@2 after a vote, not pass@2 of two samples: more views cost more model calls and can score higher, "
    "so compare runs with equal views."
)


def lede(sources: Sequence[Source]) -> Html:
    """The result of every run in one sentence, and under it what is known of a model that judged."""
    parts = []
    for source in sources:
        parts.append(_sentence(source, len(sources) > 1))
        parts += [el("p", line, cls="judge") for line in source.grades.summary["judge"]]
    return el("div", *parts, cls="lede")


def _sentence(source: Source, several: bool) -> Html:
    summary = source.grades.summary
    unit = summary["unit"]
    name = f"{source.label}: " if several else ""
    if summary["score"] is None:
        return el(
            "p", name, el("b", "no score"), f": none of {count(summary['questions'], 'question')} could be graded."
        )
    return el(
        "p",
        name,
        el("b", percent(summary["score"])),
        f" of {count(summary['n'], unit)}, 95 % interval ",
        el("b", span(summary["interval"])),
        f"; {count(summary['ungraded'], unit)} ungraded.",
    )


def results(sources: Sequence[Source]) -> Html:
    """Score, controls and figures: a table with plots for one run, the runs side by side for several."""
    return _alone(sources[0]) if len(sources) == 1 else _beside(sources)


def _alone(source: Source) -> Html:
    names = (("", None), ("mean", "n"), ("95 % interval", "n"), ("n", "n"))
    head = el(
        "tr", *(el("th", name, scope="col", cls=cls) for name, cls in names), el("th", _axis(), scope="col", cls="axis")
    )
    rows = [_row(name, value, kind) for name, kind, value in _measures(source)]
    facts = el(
        "dl", *(part for name, value in _counts(source) for part in (el("dt", name), el("dd", value))), cls="counts"
    )
    return el("div", el("table", el("thead", head), el("tbody", *rows), cls="scores"), facts, cls="result")


def _beside(sources: Sequence[Source]) -> Html:
    """One row a measure, one column a run; the counts below."""
    measured = [{name: (kind, value) for name, kind, value in _measures(source)} for source in sources]
    names = dict.fromkeys(name for column in measured for name in column)
    rows = [_measure_row(name, [column.get(name) for column in measured]) for name in names]
    counted = [_counts(source) for source in sources]
    for index, (name, _) in enumerate(counted[0]):
        cells = [el("td", column[index][1]) for column in counted]
        rows.append(el("tr", el("th", name, scope="row"), *cells, cls="control"))
    head = el("tr", el("th", "", scope="col"), *(el("th", source.label, scope="col") for source in sources))
    return el(
        "div", el("table", el("thead", head), el("tbody", *rows), cls="scores beside"), cls="scroll", tabindex="0"
    )


def _measure_row(name: str, columns: Sequence[tuple[str, Measure] | None]) -> Html:
    kind = next(column[0] for column in columns if column)
    cells = [el("td", *_cell(name, *column)) if column else el("td", "–") for column in columns]
    return el("tr", el("th", name, scope="row"), *cells, cls=kind)


def _cell(name: str, kind: str, value: Measure) -> tuple[Html, ...]:
    plot = interval_plot(value["mean"], value["interval"], _spoken(name, value), kind=kind)
    return el("b", percent(value["mean"])), el("small", f" {span(value['interval'])}, n {value['n']:,}"), plot


def _measures(source: Source) -> Iterator[tuple[str, str, Measure]]:
    """(name, kind, measure) of the score, the controls and the figures, in the order of the page."""
    summary = source.grades.summary
    main = {"mean": summary["score"], "n": summary["n"], "interval": summary["interval"]}
    yield f"Score ({source.grades.grader}, by {summary['unit']})", "score", main
    for name, value in summary["controls"].items():
        yield f"Control: {called(name)}", "control", value
    for name, value in _figures(source):
        yield called(name), "figure", value


def _figures(source: Source) -> Iterator[tuple[str, Measure]]:
    """Figures in the order of `NAMES`, then by name, and after the oracle what voting lost of it."""
    figures = {name: value for name, value in source.grades.summary["figures"].items() if not is_point(name)}
    known = list(NAMES)
    for name in sorted(figures, key=lambda name: (known.index(name) if name in known else len(known), name)):
        yield name, figures[name]
        if name == "oracle":
            yield "voting-loss", _voting_loss(source)


def _voting_loss(source: Source) -> Measure:
    """How many questions some view has right and the attempts have not: oracle - score, clustered by task."""
    rows = ((row.task, row.score, row.figures.get("oracle")) for row in source.grades.grades())
    mean, low, high, n = paired_difference(
        (task, score, best) for task, score, best in rows if score is not None and best is not None
    )
    return {"mean": mean if n else None, "n": n, "interval": (max(0.0, low), high) if n else None}


def _axis() -> Html:
    return el("span", *(el("span", label) for label in ("0", "25", "50", "75", "100 %")), cls="ticks")


def _row(name: str, value: Measure, kind: str) -> Html:
    return el(
        "tr",
        el("th", name, scope="row"),
        el("td", percent(value["mean"]), cls="n"),
        el("td", span(value["interval"]), cls="n"),
        el("td", f"{value['n']:,}", cls="n"),
        el("td", interval_plot(value["mean"], value["interval"], _spoken(name, value), kind=kind), cls="plotted"),
        cls=kind,
    )


def _spoken(name: str, value: Measure) -> str:
    return f"{name}: {percent(value['mean'])}, interval {span(value['interval'])}"


def _counts(source: Source) -> tuple[tuple[str, str], ...]:
    """What stands behind the score: questions, outputs, failures and reasons, zeros included."""
    summary = source.grades.summary
    return (
        ("Questions", f"{summary['questions']:,}"),
        ("Outputs", f"{summary['outputs']:,}"),
        (f"Ungraded {summary['unit']}s", f"{summary['ungraded']:,}{_reasons(summary['reasons'])}"),
        ("Ungraded outputs", _counted(summary["ungraded_outputs"])),
        ("Failed outputs", _counted(summary["failed"])),
        ("Interval", summary["method"] or "not named"),
    )


def _counted(reasons: Mapping[str, int]) -> str:
    return f"{sum(reasons.values()):,}{_reasons(reasons)}"


def _reasons(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {number:,}' for name, number in reasons.items())})" if reasons else ""


def voted(sources: Sequence[Source]) -> bool:
    """Whether grids were voted for."""
    return any(source.grades.grader.startswith("arc") for source in sources)


def note(sources: Sequence[Source]) -> Html:
    """How to read the numbers, with the number of views behind an answer."""
    shares = {source.grades.summary["outputs"] / max(1, source.grades.summary["questions"]) for source in sources}
    views = " and ".join(f"{share:.3g}" for share in sorted(shares))
    lines = (INTERVALS, VOTED.format(views=views)) if voted(sources) else (INTERVALS,)
    return el("div", *(el("p", line) for line in lines), cls="note")

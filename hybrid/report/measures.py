"""What a grader measured of all outputs together, as a table: group by group, each figure beside its control."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.metrics import Interval, Measured
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.sources import ReportRun

HEADS = ("", "value", "control", "standing")
LONGEST_NAME = 100


def measures_table(run: ReportRun, *, several: bool) -> Html:
    """The table of a run, with its label where there are `several`; empty where nothing was measured."""
    found: Sequence[Measured] = run.grades.summary["measures"] if run.grades else ()
    if not found:
        return Html("")
    head = [el("th", name, scope="col", cls="n" if place else None) for place, name in enumerate(HEADS)]
    rows: list[Html] = []
    for place, one in enumerate(found):
        if not place or one.group != found[place - 1].group:
            name = truncated(one.group, LONGEST_NAME)
            rows.append(el("tr", el("th", name, colspan=len(HEADS), scope="rowgroup"), cls="group"))
        rows.append(_row(one))
    table = el("table", el("thead", el("tr", *head)), el("tbody", *rows), cls="measures")
    return join([el("h4", run.label) if several else Html(""), el("div", table, cls="scroll", tabindex="0")])


def _row(one: Measured) -> Html:
    against = el("small", one.against) if one.against else Html("")
    control = _number(one.control, one.control_interval) if one.control is not None else Html("–")
    return el(
        "tr",
        el("th", one.name, el("small", f"n {one.n:,}"), scope="row"),
        el("td", _number(one.value, one.interval), cls="n"),
        el("td", control, against, cls="n"),
        el("td", one.standing or "–", cls="n"),
    )


def _number(value: float, interval: Interval | None) -> Html:
    known = interval is not None and interval[0] < interval[1]
    said = el("small", f"{interval[0]:.3g} – {interval[1]:.3g}".replace("-", "−")) if interval and known else Html("")
    return join([el("b", f"{value:.3g}".replace("-", "−")), said])

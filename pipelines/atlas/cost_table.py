"""What a round of each method costs: traffic both ways, memory and time, a number and a bar each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from hybrid.report.line_charts import number
from hybrid.report.markup import Html, el, join
from pipelines.atlas.comparison import MEGABYTE, Comparison
from pipelines.atlas.results import SeriesResult

COLUMNS = ("MB sent", "MB fetched", "memory, MB", "seconds")
SAID = (
    "The mean over rounds and seeds, all clients together: bytes of the files that went to the server and from it; the "
    "peak of memory and the time of the machine that computed the round, with all clients side by side. Where clients "
    "are series of their own (exchange=folder) these two are of the server alone, when it closed the round. They "
    "differ from run to run, and are missing in runs of earlier versions; bars are shares of the largest in a column."
)


def costs(comparison: Comparison) -> Html:
    """A row for each method that may be compared; nothing without any figure."""
    found = {method: _of(own) for method in comparison.methods if (own := comparison.sound(method))}
    largest = {name: max((one.get(name, 0.0) for one in found.values()), default=0.0) for name in COLUMNS}
    shown = [name for name in COLUMNS if any(name in one for one in found.values())]
    if not shown:
        return Html("")
    head = el("tr", el("th", "", scope="col"), *(el("th", name, scope="col", cls="n") for name in shown))
    rows = [
        el("tr", el("th", method, scope="row"), *(_cell(name, values.get(name), largest[name]) for name in shown))
        for method, values in found.items()
    ]
    table = el("table", el("thead", head), el("tbody", *rows), cls="atlas-methods atlas-stack atlas-costs")
    return join([el("h3", "Communication, memory and time of a round"), table, el("p", SAID, cls="note")])


def _of(series: Sequence[SeriesResult]) -> Mapping[str, float]:
    """The figures of a method that each of its series has, by column."""
    each: Mapping[str, Sequence[Sequence[float] | None]] = {
        "MB sent": [_scaled(one.curve("upload_bytes").values()) for one in series],
        "MB fetched": [_scaled(one.curve("download_bytes").values()) for one in series],
        "memory, MB": [_scaled(one.cost("peak_bytes") or ()) for one in series],
        "seconds": [one.cost("round_seconds") for one in series],
    }
    return {name: fmean(value for one in of for value in one or ()) for name, of in each.items() if all(of)}


def _scaled(sizes: Iterable[float]) -> list[float]:
    return [one / MEGABYTE for one in sizes]


def _cell(name: str, value: float | None, largest: float) -> Html:
    if value is None:
        return el("td", "–", cls="n", data_label=name)
    share = 100 * value / largest if largest > 0 else 0.0
    bar = f'<svg aria-hidden="true" viewBox="0 0 100 4" preserveAspectRatio="none"><path d="M0 2h{share:.1f}"/></svg>'
    return el("td", el("b", number(float(f"{value:.3g}"))), Html(bar), cls="n", data_label=name)

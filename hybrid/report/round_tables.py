"""Tables of rounds, or of what takes part in them, folded away: for sections of pipelines whose records are rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.report.line_charts import number
from hybrid.report.markup import Html, el
from hybrid.report.output_texts import truncated

MEGABYTE = 1_000_000
LONGEST_NAME = 100


def folded(name: str, table: Html) -> Html:
    """A table that is opened by its name."""
    return el("details", el("summary", name), el("div", table, cls="scroll rounds", tabindex="0"))


def metrics_table(
    first: str, rows: Mapping[str, Mapping[str, float]], names: Sequence[str], in_megabytes: Mapping[str, str] = {}
) -> Html:
    """A table of metrics by row, as far as a row has them. `first` heads the names of the rows.

    `names` are the metrics that are shown if any row has them; those of `in_megabytes` are bytes, under another name.
    """
    shown = [name for name in names if any(name in metrics for metrics in rows.values())]
    labels = [in_megabytes.get(name, name.replace("_", " ")) for name in shown]
    head = el("tr", el("th", first, scope="col"), *(el("th", label, scope="col", cls="n") for label in labels))
    body = [
        el(
            "tr",
            el("th", truncated(row, LONGEST_NAME), scope="row"),
            *(el("td", _value(metrics.get(name), in_bytes=name in in_megabytes), cls="n") for name in shown),
        )
        for row, metrics in rows.items()
    ]
    return el("table", el("thead", head), el("tbody", *body))


def _value(value: float | None, *, in_bytes: bool) -> str:
    if value is None:
        return "–"
    return number(value / MEGABYTE if in_bytes else value)

"""Arms that a judge compared in pairs: strengths and win rates, and what the judge makes of order and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hybrid.metrics import Measured
from hybrid.report.charts import interval_plot
from hybrid.report.markup import Html, el, join
from hybrid.report.measures import LONGEST_NAME, measures_table
from hybrid.report.output_texts import truncated
from hybrid.report.section import Scope, Section
from hybrid.report.sources import ReportRun

GRADER = "pairwise"
STRENGTH = "strength"
"""How the name of a strength among what was measured begins."""
LEAST_WIDE = 3.0
"""Log odds that the axis of strengths reaches at least, to both sides."""
NOTE = (
    "Each pair of answers was judged in both orders; a verdict that the order changed is a tie. A strength is the log "
    "odds of a win: 0 is an even chance, 1.1 three wins in four (Bradley and Terry). Intervals are 95 % intervals, "
    "clustered by task. What the judge makes of length is reported, and nothing is corrected for it."
)


@dataclass(frozen=True)
class Pairs(Section):
    """The arms of a run in order of their strengths, and all that was measured of them."""

    scope: ClassVar[Scope] = "general"
    title: ClassVar[str] = "Arms in pairs"
    right_or_wrong: ClassVar[bool] = False

    def wants(self, run: ReportRun) -> bool:
        """Whether the run's arms were compared in pairs."""
        return run.grader == GRADER

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """The strengths as a picture, and the table of all measures."""
        return join([part for run in runs for part in (_strengths(run), measures_table(run, several=len(runs) > 1))])

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """What a strength is."""
        return (NOTE,)


def _strengths(run: ReportRun) -> Html:
    found = [one for one in (run.grades.summary["measures"] if run.grades else ()) if one.name.startswith(STRENGTH)]
    if not found:
        return Html("")
    wide = max(LEAST_WIDE, *(abs(end) for one in found for end in one.interval or (one.value,)))
    names = ("", "strength", "95 % interval", "pairs", f"{-wide:.1f} to {wide:.1f}".replace("-", "−"))
    head = el(
        "tr", *(el("th", name, scope="col", cls="n" if 0 < place < 4 else None) for place, name in enumerate(names))
    )
    table = el("table", el("thead", head), el("tbody", *(_strength(one, wide) for one in found)), cls="scores paired")
    return el("div", table, cls="scroll", tabindex="0")


def _strength(one: Measured, wide: float) -> Html:
    interval = f"{one.interval[0]:+.2f} to {one.interval[1]:+.2f}" if one.interval else "–"
    told = [f"{one.value:+.2f}", interval, f"{one.n:,}"]
    label = f"strength of {one.group}: {told[0]}, interval {interval}"
    cells = [
        el("th", truncated(one.group, LONGEST_NAME), scope="row"),
        *(el("td", text.replace("-", "−"), cls="n") for text in told),
        el("td", interval_plot(one.value, one.interval, label, axis=(-wide, wide)), cls="plotted"),
    ]
    return el("tr", *cells, cls="score")

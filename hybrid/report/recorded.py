"""What another tool's scorers gave, in files that were read from it: a table of their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hybrid.metrics import Measured
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Scope, Section
from hybrid.report.sources import ReportRun

GRADER = "recorded"
HEADINGS = ("", "scorer", "n", "mean or count", "95 % interval")

NOTE = (
    "Recorded scores were given by another tool. A question's samples are reduced to one score first; "
    "what has no score is not part of the mean, so n differs by scorer."
)


@dataclass(frozen=True)
class RecordedReport(Section):
    """Draws the mean of each scorer with its interval and n, and how many outputs have no score, with the reason."""

    scope: ClassVar[Scope] = "general"
    title: ClassVar[str] = "Recorded scores"

    def wants(self, run: ReportRun) -> bool:
        """Whether the scores are those of another tool."""
        return run.grader == GRADER

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """A table for each run."""
        return join([_table(run, named=len(runs) > 1) for run in runs])

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """How the means are made."""
        return (NOTE,)


def _table(run: ReportRun, *, named: bool) -> Html:
    measures: Sequence[Measured] = run.grades.summary["measures"] if run.grades else ()
    head = el("thead", el("tr", *(el("th", one, scope="col") for one in HEADINGS)))
    body = el("tbody", *map(_row, measures))
    title = el("h3", run.label) if named else Html("")
    return join([title, el("div", el("table", head, body), cls="scroll", tabindex="0")])


def _row(one: Measured) -> Html:
    interval = f"{one.interval[0]:.4g} – {one.interval[1]:.4g}" if one.interval else "–"
    cells = (one.name, f"{one.n:,}", f"{one.value:.4g}", interval)
    return el("tr", el("td", one.group), *(el("td", cell) for cell in cells))

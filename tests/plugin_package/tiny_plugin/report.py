"""How sums went, on the page of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hybrid.report.markup import Html, el
from hybrid.report.section import Section, TaskView
from hybrid.report.sources import ReportRun


@dataclass(frozen=True)
class SumsReport(Section):
    """Sums beside what the model said."""

    title: ClassVar[str] = "Sums"

    def wants(self, run: ReportRun) -> bool:
        """Runs of our own pipeline."""
        return run.pipeline == "tiny-sums"

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """How many sums there are, run by run."""
        return el("ul", *(el("li", f"{run.label}: {len(run.outputs.tasks)} sums") for run in runs))

    def task(self, shown: TaskView) -> Html:
        """One sum: what is right, and every answer."""
        rows = [
            el("li", f"{shown.task} = {result.reference}; said: ", output.text or "nothing")
            for _, result in shown.questions()
            for output in result.outputs
        ]
        return el("ul", *rows)

"""The interface of a section of the report (CONTRIBUTING.md: add a report section).

A section is a frozen dataclass derived from `Section`, found by the entry points `hybrid.reports`. Only `wants` is
required. Markup is built with `hybrid.report.markup`, which escapes every text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from hybrid.report.markup import Html
from hybrid.report.sources import QuestionResult, ReportRun, TaskResult

Scope = Literal["pipeline", "data", "general"]

Measure: TypeAlias = Mapping[str, Any]
"""`mean`, `n` and `interval` of a score, a control or a figure."""

NOTHING = Html("")


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task on the page: its data, and each run's part of it, None for a run without the task.

    `longest` is the most characters to show of one text.
    """

    task: str
    data: Any
    runs: Sequence[ReportRun]
    parts: Sequence[TaskResult | None]
    longest: int

    @property
    def several(self) -> bool:
        """Whether the page has several runs, so that each must be labelled."""
        return len(self.runs) > 1

    def questions(self) -> Iterator[tuple[ReportRun, QuestionResult]]:
        """Every question to show, run by run."""
        for run, part in zip(self.runs, self.parts, strict=True):
            for result in part.questions if part else ():
                yield run, result

    def left_out(self) -> int:
        """How many questions are not shown."""
        return sum(len(part.scores) - len(part.questions) for part in self.parts if part)


class Section:
    """A part of the report. `scope` decides which section draws a task: a pipeline's before a data set's, and both
    before a general one.
    """

    scope: ClassVar[Scope] = "pipeline"
    title: ClassVar[str] = ""
    """The heading over `overall`."""
    opening_title: ClassVar[str] = ""
    """The heading over `opening`."""
    names: ClassVar[Mapping[str, str]] = {}
    """Name of a figure or control of a grader -> its name on the page."""

    right_or_wrong: ClassVar[bool] = True
    """Whether a score says how right an answer is. False for scores of another meaning: no task of such a run is
    called right, partly right or wrong, and `headline` says the result."""

    def wants(self, run: ReportRun) -> bool:
        """Whether the section applies to the run."""
        raise NotImplementedError

    def headline(self, run: ReportRun) -> Html:
        """The result of a run in a sentence, at the top of the page; empty: the score with its interval."""
        return NOTHING

    def opening(self, runs: Sequence[ReportRun], longest: int) -> Html:
        """What a reader wants to see first, before the result, once per page; at most `longest` characters of a text.

        `runs` are those that the section wants.
        """
        return NOTHING

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """The part under the result, once per page. `runs` are those that the section wants."""
        return NOTHING

    def task(self, shown: TaskView) -> Html:
        """The drawing of one task; an empty one leaves it to the next section, finally to rows of text."""
        return NOTHING

    def facts(self, part: TaskResult) -> Sequence[str]:
        """Facts about one run's part of a task, shown beside the task's name."""
        return ()

    def sorts(self, runs: Sequence[ReportRun]) -> Mapping[str, str]:
        """Further sort orders: label -> `-name` (descending) or `+name` (ascending) of a value in `values`."""
        return {}

    def values(self, part: TaskResult) -> Mapping[str, float | None]:
        """The values of one run's part of a task that tasks can be sorted by; names are lower-case letters."""
        return {}

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """Notes on how to read the numbers."""
        return ()

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """The figures in the table of results: those of the grader, or a selection or extension of them."""
        return figures

    def style(self) -> str:
        """CSS for its markup."""
        return ""

    def script(self) -> str:
        """JavaScript for its markup, run when the page is loaded. The page must be complete without it."""
        return ""

    def head(self) -> Html:
        """Markup at the top of the page that its drawings refer to, such as SVG definitions."""
        return NOTHING

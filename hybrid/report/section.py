"""What a part of the report must have that an experiment or a data set brings (CONTRIBUTING.md: a report section).

A section is a frozen dataclass with this class as its base, found by the entry points `hybrid.reports`. All methods but
`wants` may be left as they are. What they return is built with `hybrid.report.markup`, which escapes every text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from hybrid.report.markup import Html
from hybrid.report.sources import Answered, Asked, ReportRun

Scope = Literal["pipeline", "data", "general"]

Measure: TypeAlias = Mapping[str, Any]
"""`mean`, `n` and `interval` of a score, a control or a figure."""

NOTHING = Html("")


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task on the page: what the runs know of it (`data`), and each run's part, None where a run does not have it.

    `longest` bounds the characters that are shown of one text.
    """

    task: str
    data: Any
    runs: Sequence[ReportRun]
    parts: Sequence[Answered | None]
    longest: int

    @property
    def several(self) -> bool:
        """Whether runs are compared, so that each has to be named."""
        return len(self.runs) > 1

    def asked(self) -> Iterator[tuple[ReportRun, Asked]]:
        """Every question that is shown, run by run."""
        for run, part in zip(self.runs, self.parts, strict=True):
            for asked in part.asked if part else ():
                yield run, asked

    def left_out(self) -> int:
        """How many questions are counted and not shown."""
        return sum(len(part.scores) - len(part.asked) for part in self.parts if part)


class Section:
    """A part of the report. `scope` says what it is of: where several would draw a task, a pipeline's section goes
    before a data set's, and that before a general one.
    """

    scope: ClassVar[Scope] = "pipeline"
    title: ClassVar[str] = ""
    """The heading over `overall`."""
    names: ClassVar[Mapping[str, str]] = {}
    """Figures and controls of a grader -> what the page calls them."""

    def wants(self, run: ReportRun) -> bool:
        """Whether the section has something to say of a run."""
        raise NotImplementedError

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """What stands once on the page, under the result. `runs` are those that it wants."""
        return NOTHING

    def task(self, shown: TaskView) -> Html:
        """One task; nothing leaves it to the next section, at last to rows of text."""
        return NOTHING

    def facts(self, part: Answered) -> Sequence[str]:
        """What is said beside a task's name, of one run."""
        return ()

    def sorts(self, runs: Sequence[ReportRun]) -> Mapping[str, str]:
        """Further ways to sort the tasks: label -> `-name` (highest first) or `+name` of a value of `values`."""
        return {}

    def values(self, part: Answered) -> Mapping[str, float | None]:
        """What tasks can be sorted by, of one run; names are small letters."""
        return {}

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """How to read the numbers."""
        return ()

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """The figures that stand in the table of the result: all, or more or less than the grader gave."""
        return figures

    def style(self) -> str:
        """CSS for what it draws."""
        return ""

    def script(self) -> str:
        """JavaScript that serves what it draws, run when the page stands. Without it the page shows all there is."""
        return ""

    def head(self) -> Html:
        """Markup that its drawings refer to, once at the top of the page."""
        return NOTHING

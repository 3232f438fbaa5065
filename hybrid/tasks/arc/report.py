"""ARC's report section: tasks drawn as grids, and a note on the vote over views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar

from hybrid.report.formatting import percent, status_badge, status_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import folded_outputs
from hybrid.report.question_rows import ungraded_reason
from hybrid.report.section import Measure, Scope, Section, TaskView
from hybrid.report.sources import QuestionResult, ReportRun, TaskResult
from hybrid.statistics.intervals import paired_difference
from hybrid.tasks.arc import pictures
from hybrid.tasks.arc.drawing import DEFINITIONS

VOTED = (
    "Two attempts are taken from a vote over several views of each question (outputs a question here: {views}). "
    "A question is right when one attempt equals the truth cell by cell, a task when all its test inputs are right. "
    "That is pass@2 after a vote, not pass@2 of two samples: more views cost more model calls and can score higher, "
    "so compare runs with equal views."
)


@dataclass(frozen=True)
class ArcReport(Section):
    """Draws demonstrations, test inputs, truths, attempts with wrong cells crossed, and the other votes."""

    scope: ClassVar[Scope] = "data"
    names: ClassVar[Mapping[str, str]] = {
        "top1": "First attempt alone, by question",
        "pass2": "One of both attempts, by question",
        "oracle": "Some view is right, by question (oracle)",
        "voting-loss": "Lost in the vote, by question",
        "cells": "Cells right in the first attempt",
        "parsed": "Outputs that hold a grid",
        "copy-input": "copy the test input",
        "most-frequent-grid": "most frequent demonstration output",
    }

    def wants(self, run: ReportRun) -> bool:
        """Whether the run has ARC tasks or was graded by a vote over grids."""
        return _voted(run) or any(map(pictures.is_arc, run.first_tasks()))

    def task(self, shown: TaskView) -> Html:
        """Demonstrations, then each question with the attempts of every run. Empty for tasks of other data."""
        if not pictures.is_arc(shown.data):
            return Html("")
        wanted = sorted({result.grade.question for _, result in shown.questions()})
        return join([pictures.demonstrations(shown.data), *(_question(shown, question) for question in wanted)])

    def facts(self, part: TaskResult) -> Sequence[str]:
        """The share of right cells, and the agreement of the outputs."""
        facts = []
        if (cells := _cells(part)) is not None:
            facts.append(f"cells {percent(cells)}")
        if (share := _agreement(part)) is not None:
            facts.append(f"{percent(share)} of outputs behind the first attempt")
        return facts

    def sorts(self, runs: Sequence[ReportRun]) -> Mapping[str, str]:
        """Sort keys by cells and by agreement, for runs graded by a vote."""
        if not any(map(_voted, runs)):
            return {}
        return {
            "Most cells right first": "-cells",
            "Most agreement first": "-votes",
            "Least agreement first": "+votes",
        }

    def values(self, part: TaskResult) -> Mapping[str, float | None]:
        """The sort values: the share of right cells, and that of outputs for the candidate with the most votes."""
        return {"cells": _cells(part), "votes": _agreement(part)}

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """The note on a score after a vote, with the number of outputs for each question."""
        if not any(map(_voted, runs)):
            return ()
        summaries = [run.grades.summary for run in runs if run.grades]
        shares = {summary["outputs"] / max(1, summary["questions"]) for summary in summaries}
        return (VOTED.format(views=" and ".join(f"{share:.3g}" for share in sorted(shares))),)

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """The figures, with the share that was lost in the vote."""
        return {**figures, "voting-loss": _voting_loss(run)} if "oracle" in figures else figures

    def style(self) -> str:
        """The CSS of ARC's grids."""
        return files("hybrid.tasks.arc").joinpath("report.css").read_text(encoding="utf-8")

    def head(self) -> Html:
        """The shared SVG pattern of the lines between cells."""
        return DEFINITIONS


def _voted(run: ReportRun) -> bool:
    return run.grader.startswith("arc")


def _voting_loss(run: ReportRun) -> Measure:
    """The share of questions that some view has right and the attempts do not: oracle - score, clustered by task."""
    rows = ((row.task, row.score, row.figures.get("oracle")) for row in run.grade_rows())
    mean, low, high, n = paired_difference(
        (task, score, best) for task, score, best in rows if score is not None and best is not None
    )
    return {"mean": mean if n else None, "n": n, "interval": (max(0.0, low), high) if n else None}


def _cells(part: TaskResult) -> float | None:
    cells = [result.grade.figures["cells"] for result in part.questions if "cells" in result.grade.figures]
    return sum(cells) / len(cells) if cells else None


def _agreement(part: TaskResult) -> float | None:
    """The share of outputs behind the most voted candidate, averaged over the questions."""
    shares = [
        _top(result) / result.count for result in part.questions if result.count and result.grade.detail.get("votes")
    ]
    return sum(shares) / len(shares) if shares else None


def _top(result: QuestionResult) -> float:
    votes = [vote.get("votes", 0) for vote in pictures.votes_of(result)]
    return max((vote for vote in votes if isinstance(vote, int | float)), default=0)


def _question(shown: TaskView, question: str) -> Html:
    """Test input and truth, and the attempts of every run."""
    answers = [
        next((result for result in part.questions if result.grade.question == question), None) if part else None
        for part in shown.parts
    ]
    reference = next((result.reference for result in answers if result), None)
    runs = [_run(shown, run, result, reference) for run, result in zip(shown.runs, answers, strict=True)]
    return el(
        "section",
        el("div", pictures.question(shown.data, _index(question), reference), cls="asked"),
        el("div", *runs, cls="runs"),
        cls="question",
    )


def _index(question: str) -> int:
    """The number of the test input in `<task>/<number>`."""
    last = question.rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 4 else 0


def _run(shown: TaskView, run: ReportRun, result: QuestionResult | None, reference: Any) -> Html:
    status = status_of(result.grade.score) if result else "absent"
    name = el("h4", run.label, " ", status_badge(status)) if shown.several else Html("")
    if result is None:
        return el("div", name, cls="run")
    drawn = pictures.attempts(result, reference) if run.grades else Html("")
    return el(
        "div", name, ungraded_reason(result), drawn, folded_outputs(result, shown.longest, run.requests), cls="run"
    )

"""The questions of a task as rows of text: question, reference, answer and the verdicts of a judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hybrid.canonical import encode
from hybrid.grading.arms import by_arm
from hybrid.report.formatting import count_of, percent, status_badge, status_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import folded_outputs, output_text, truncated
from hybrid.report.section import TaskView
from hybrid.report.sources import QuestionResult, ReportRun
from hybrid.report.verdicts import judged

PREVIEW = 400
"""Characters of an answer that are shown with its question; the full text is folded."""


def question_rows(shown: TaskView) -> Html:
    """Every question of the task, run by run."""
    drawn = [_row(run, run.label if shown.several else "", result, shown.longest) for run, result in shown.questions()]
    more = shown.left_out()
    left = [el("p", f"{count_of(more, 'more question')} not shown", cls="none")] if more else []
    return join([*drawn, *left])


def task_data(data: Any, longest: int) -> Html:
    """The data of a task as folded JSON."""
    if data in (None, {}, []):
        return Html("")
    text = encode(data).decode()
    return el(
        "details", el("summary", "Task data"), el("pre", truncated(text, longest), dir="ltr", tabindex="0"), cls="raw"
    )


def ungraded_reason(result: QuestionResult) -> Html:
    """Why a question has no score; empty for a run without grades."""
    if result.grade.score is not None or not result.grade.reason:
        return Html("")
    if not result.grade.due:
        return el("p", "Not to be graded: ", result.grade.reason, cls="none")
    return el("p", "Ungraded: ", result.grade.reason, cls="error")


def _row(run: ReportRun, label: str, result: QuestionResult, longest: int) -> Html:
    reference = result.reference
    shown = reference if isinstance(reference, str) else "" if reference is None else encode(reference).decode()
    name = f"{label} · {result.grade.question}" if label else result.grade.question
    status = status_of(result.grade.score, due=result.grade.due)
    score = percent(result.grade.score) if status == "partly" else ""
    return el(
        "section",
        el("p", el("b", name), " ", status_badge(status), " ", el("span", score, cls="facts"), cls="name"),
        ungraded_reason(result),
        el(
            "dl",
            *_question(result, longest),
            *(
                el("dt", "Reference"),
                el("dd", truncated(shown, longest) or "none"),
            ),
            *_answers(run, result, min(longest, PREVIEW)),
            *judged(result.grade.detail, longest),
        ),
        folded_outputs(result, longest, run.requests) if run.requests or _folds(result) else Html(""),
        cls="text",
    )


def _answers(run: ReportRun, result: QuestionResult, longest: int) -> Iterator[Html]:
    """The first answer of each arm."""
    for arm, outputs in by_arm(result.outputs, run.grades.summary["arms"] if run.grades else ()).items():
        yield el("dt", f"Answer of {arm}" if arm else "Answer")
        yield el("dd", output_text(outputs[0], longest) if outputs else Html(""))


def _question(result: QuestionResult, longest: int) -> tuple[Html, ...]:
    """The text of the question, where the view of its outputs has it."""
    text = result.outputs[0].view.get("question") if result.outputs else None
    return (el("dt", "Question"), el("dd", truncated(text, longest))) if isinstance(text, str) else ()


def _folds(result: QuestionResult) -> bool:
    """Whether there is more to show than stands in the row itself."""
    longest = max((max(len(output.text or ""), len(output.thought)) for output in result.outputs), default=0)
    return result.count > 1 or longest > PREVIEW

"""The questions of a task as rows of text: what was asked, the reference, the answer, what a judge said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.canonical import encode
from hybrid.report.markup import Html, el, join
from hybrid.report.raw import body, cut, fold
from hybrid.report.section import TaskView
from hybrid.report.sources import Asked
from hybrid.report.words import count, mark, percent, status_of

MOST_VERDICTS = 20
"""Verdicts of one answer that are shown."""

SHORT = 400
"""Characters of an answer that stand beside its question; the whole is behind a fold."""


def rows(shown: TaskView) -> Html:
    """Every question of the task, run by run."""
    drawn = [_row(run.label if shown.several else "", asked, shown.longest) for run, asked in shown.asked()]
    more = shown.left_out()
    left = [el("p", f"{count(more, 'more question')} not shown", cls="none")] if more else []
    return join([*drawn, *left])


def task_data(data: Any, longest: int) -> Html:
    """What a run knows of a task, as JSON behind a fold."""
    if data in (None, {}, []):
        return Html("")
    said = encode(data).decode()
    return el("details", el("summary", "Task data"), el("pre", cut(said, longest), dir="ltr", tabindex="0"), cls="raw")


def ungraded(asked: Asked) -> Html:
    """Why a question has no score; nothing for a run that nobody graded yet."""
    if asked.grade.score is not None or not asked.grade.reason:
        return Html("")
    return el("p", "Ungraded: ", asked.grade.reason, cls="error")


def _row(label: str, asked: Asked, longest: int) -> Html:
    reference = asked.reference
    shown = reference if isinstance(reference, str) else "" if reference is None else encode(reference).decode()
    first = body(asked.outputs[0], min(longest, SHORT)) if asked.outputs else Html("")
    name = f"{label} · {asked.grade.question}" if label else asked.grade.question
    status = status_of(asked.grade.score)
    score = percent(asked.grade.score) if status == "partly" else ""
    return el(
        "section",
        el("p", el("b", name), " ", mark(status), " ", el("span", score, cls="facts"), cls="name"),
        ungraded(asked),
        el(
            "dl",
            *_question(asked, longest),
            *(el("dt", "Reference"), el("dd", cut(shown, longest) or "none"), el("dt", "Answer"), el("dd", first)),
            *_verdicts(asked.grade.detail, longest),
        ),
        fold(asked, longest) if asked.count > 1 or _long(asked, SHORT) else Html(""),
        cls="text",
    )


def _question(asked: Asked, longest: int) -> tuple[Html, ...]:
    """What was asked, where the outputs tell it in words."""
    said = asked.outputs[0].view.get("question") if asked.outputs else None
    return (el("dt", "Question"), el("dd", cut(said, longest))) if isinstance(said, str) else ()


def _verdicts(detail: Mapping[str, Any], longest: int) -> tuple[Html, ...]:
    """How a judging model came to the grade: a rule, or its verdicts with their reasons."""
    verdicts, by = detail.get("verdicts"), detail.get("by")
    if not isinstance(by, str):
        return ()
    lines = [el("dd", cut(by, longest))]
    if isinstance(verdicts, list):
        lines = [el("dd", cut(_verdict(one), longest)) for one in verdicts[:MOST_VERDICTS]]
    return el("dt", "Judged"), *lines


def _verdict(one: Any) -> str:
    if not isinstance(one, dict) or "correct" not in one:
        return str(one.get("problem", "no verdict")) if isinstance(one, dict) else "no verdict"
    said = "right" if one["correct"] is True else "wrong"
    return f"{said}: {one['reason']}" if one.get("reason") else said


def _long(asked: Asked, characters: int) -> bool:
    return any(max(len(output.text or ""), len(output.thought)) > characters for output in asked.outputs)

"""The questions of a task as rows of text: question, reference, answer and the verdicts of a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid.canonical import encode
from hybrid.grading.arms import by_arm
from hybrid.report.formatting import count_of, percent, status_badge, status_of
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import folded_outputs, output_text, truncated
from hybrid.report.section import TaskView
from hybrid.report.sources import QuestionResult, ReportRun

MAX_VERDICTS = 20
"""Most verdicts that are shown of one answer."""

MAX_CRITERIA = 50
"""Most criteria of a rubric that are shown of one answer."""

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
    return el("p", "Ungraded: ", result.grade.reason, cls="error")


def _row(run: ReportRun, label: str, result: QuestionResult, longest: int) -> Html:
    reference = result.reference
    shown = reference if isinstance(reference, str) else "" if reference is None else encode(reference).decode()
    name = f"{label} · {result.grade.question}" if label else result.grade.question
    status = status_of(result.grade.score)
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
            *_verdicts(result.grade.detail, longest),
        ),
        folded_outputs(result, longest) if result.count > 1 or _long(result, PREVIEW) else Html(""),
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


def _verdicts(detail: Mapping[str, Any], longest: int) -> tuple[Html, ...]:
    """The basis of a judge's grade: a rule, or verdicts with their reasons."""
    verdicts, by = detail.get("verdicts"), detail.get("by")
    if not isinstance(by, str):
        return ()
    lines = [el("dd", truncated(by, longest))]
    if isinstance(verdicts, list):
        lines = [el("dd", truncated(_verdict(one), longest)) for one in verdicts[:MAX_VERDICTS]]
    if isinstance(criteria := detail.get("criteria"), list):
        said = [line for one in criteria[:MAX_CRITERIA] if isinstance(one, dict) for line in _on_criterion(one)]
        lines = [el("dd", truncated(line, longest)) for line in said]
    return el("dt", "Judged"), *lines


def _on_criterion(one: Mapping[str, Any]) -> Iterator[str]:
    """What was said on one criterion of a rubric, verdict by verdict."""
    verdicts = one.get("verdicts")
    for verdict in verdicts[:MAX_VERDICTS] if isinstance(verdicts, list) else ():
        found = verdict if isinstance(verdict, dict) else {}
        said = {True: "yes", False: "no"}.get(found["said"], found["said"]) if "said" in found else "no verdict"
        reason = found.get("reason") if "said" in found else found.get("problem")
        yield f"{one.get('name', '')}: {said}" + (f" ({reason})" if reason else "")


def _verdict(one: Any) -> str:
    if not isinstance(one, dict) or "correct" not in one:
        return str(one.get("problem", "no verdict")) if isinstance(one, dict) else "no verdict"
    verdict = "right" if one["correct"] is True else "wrong"
    return f"{verdict}: {one['reason']}" if one.get("reason") else verdict


def _long(result: QuestionResult, characters: int) -> bool:
    return any(max(len(output.text or ""), len(output.thought)) > characters for output in result.outputs)

"""The article of one task: its name and status, then its drawing by a section, else rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.report.formatting import count_of, status_badge, status_of
from hybrid.report.markup import Html, el, join
from hybrid.report.question_rows import question_rows, task_data
from hybrid.report.section import TaskView
from hybrid.report.sections import Sections
from hybrid.report.sources import ReportRun, TaskResult


def article(number: int, shown: TaskView, sections: Sections) -> Html:
    """Everything about one task; `number` is its anchor for links."""
    statuses = statuses_of(shown.runs, shown.parts, sections)
    known = [(run, part) for run, part in zip(shown.runs, shown.parts, strict=True) if part]
    values = [sections.values(part) for _, part in known]
    names = dict.fromkeys(name for each in values for name in each)
    sorted_by = {f"data_{name}": _figure([each.get(name) for each in values]) for name in names}
    return el(
        "article",
        _head(number, shown, statuses, sections),
        sections.task(shown) or join([task_data(shown.data, shown.longest), question_rows(shown)]),
        id=f"t{number}",
        data_id=shown.task,
        data_status=" ".join(statuses),
        data_score=_figure([part.score(run.unit) for run, part in known]),
        **sorted_by,
        data_failed=str(sum(part.failed for _, part in known)),
    )


def statuses_of(runs: Sequence[ReportRun], parts: Sequence[TaskResult | None], sections: Sections) -> list[str]:
    """The status of the task in every run, `absent` where the run does not have it."""
    return [_status(run, part, sections) if part else "absent" for run, part in zip(runs, parts, strict=True)]


def _status(run: ReportRun, part: TaskResult, sections: Sections) -> str:
    """Right, partly, wrong, ungraded or unscored; `graded` where a score does not say how right an answer is."""
    status = status_of(part.score(run.unit), due=part.due)
    return status if status in ("ungraded", "unscored") or sections.right_or_wrong(run) else "graded"


def _figure(values: Sequence[float | None]) -> str:
    """The mean of the known values, for sorting; "" without any."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4f}" if known else ""


def _head(number: int, shown: TaskView, statuses: Sequence[str], sections: Sections) -> Html:
    facts: list[Html | str] = []
    if not shown.several and (part := shown.parts[0]):
        facts.append(status_badge(statuses[0]))
        judged = sections.right_or_wrong(shown.runs[0])
        facts.append(el("span", " · ".join(_facts(part, sections, judged=judged)), cls="facts"))
    return el("header", el("h3", el("a", shown.task, href=f"#t{number}")), *facts)


def _facts(part: TaskResult, sections: Sections, *, judged: bool) -> list[str]:
    facts = []
    if judged and len(part.scores) > 1 and {0.0, 1.0} & set(part.scores):  # shares alone are neither right nor wrong
        right = sum(1 for score in part.scores if score is not None and score >= 1.0)
        facts.append(f"{right:,} of {count_of(len(part.scores), 'question')} right")
    facts += sections.facts(part)
    if part.failed:
        facts.append(f"{count_of(part.failed, 'output')} failed")
    if trained := _training(part):
        facts.append(trained)
    return facts


def _training(part: TaskResult) -> str:
    """Steps, texts and loss of the task's training, from its first trained output. Records are untrusted input."""
    training = next((one.trained for result in part.questions for one in result.outputs if one.trained), {})
    steps, texts, loss = training.get("steps"), training.get("texts"), training.get("loss")
    if type(steps) is not int or type(texts) is not int or not isinstance(loss, list):
        return ""
    losses = [one for one in loss if type(one) is float]
    change = f", loss {losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
    return f"trained {count_of(steps, 'step')} on {count_of(texts, 'text')}{change}"

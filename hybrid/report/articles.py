"""The article of one task: its name and standing, then what a section draws of it, else rows of text."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.machine.terminal import count_of
from hybrid.report.markup import Html, el, join
from hybrid.report.rows import rows, task_data
from hybrid.report.section import TaskView
from hybrid.report.sections import Sections
from hybrid.report.sources import Answered, ReportRun
from hybrid.report.words import count, mark, status_of


def article(number: int, shown: TaskView, sections: Sections) -> Html:
    """Everything about one task, under the number that links lead to."""
    states = standings(shown.runs, shown.parts)
    known = [(run, part) for run, part in zip(shown.runs, shown.parts, strict=True) if part]
    values = [sections.values(part) for _, part in known]
    names = dict.fromkeys(name for each in values for name in each)
    sorted_by = {f"data_{name}": _figure([each.get(name) for each in values]) for name in names}
    return el(
        "article",
        _head(number, shown, states, sections),
        sections.task(shown) or join([task_data(shown.data, shown.longest), rows(shown)]),
        id=f"t{number}",
        data_id=shown.task,
        data_status=" ".join(states),
        data_score=_figure([part.score(run.unit) for run, part in known]),
        **sorted_by,
        data_failed=str(sum(part.failed for _, part in known)),
    )


def standings(runs: Sequence[ReportRun], parts: Sequence[Answered | None]) -> list[str]:
    """The status of the task in every run, `absent` where the run does not have it."""
    return [status_of(part.score(run.unit)) if part else "absent" for run, part in zip(runs, parts, strict=True)]


def _figure(values: Sequence[float | None]) -> str:
    """The mean of what there is, for sorting; nothing when there is nothing."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4f}" if known else ""


def _head(number: int, shown: TaskView, states: Sequence[str], sections: Sections) -> Html:
    facts: list[Html | str] = []
    if not shown.several and (part := shown.parts[0]):
        facts.append(mark(states[0]))
        facts.append(el("span", " · ".join(_facts(part, sections)), cls="facts"))
    return el("header", el("h3", el("a", shown.task, href=f"#t{number}")), *facts)


def _facts(part: Answered, sections: Sections) -> list[str]:
    said = []
    if len(part.scores) > 1 and any(score is not None for score in part.scores):
        right = sum(1 for score in part.scores if score is not None and score >= 1.0)
        said.append(f"{right:,} of {count_of(len(part.scores), 'question')} right")
    said += sections.facts(part)
    if part.failed:
        said.append(f"{count(part.failed, 'output')} failed")
    if trained := _training(part):
        said.append(trained)
    return said


def _training(part: Answered) -> str:
    """What the task's training did, as its first trained answer tells; the records may be from anybody."""
    told = next((one.trained for asked in part.asked for one in asked.outputs if one.trained), {})
    steps, texts, loss = told.get("steps"), told.get("texts"), told.get("loss")
    if type(steps) is not int or type(texts) is not int or not isinstance(loss, list):
        return ""
    course = [one for one in loss if type(one) is float]
    fall = f", loss {course[0]:.2f} to {course[-1]:.2f}" if course else ""
    return f"trained {count(steps, 'step')} on {count(texts, 'text')}{fall}"

"""The article of one task: its name and standing, then pictures or text, run by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.canonical import encode
from hybrid.machine.terminal import some
from hybrid.report import pictures, self_edits
from hybrid.report.markup import Html, el, join
from hybrid.report.raw import body, cut, fold
from hybrid.report.sources import Answered, Asked, Source
from hybrid.report.words import count, mark, percent, status_of

MOST_VERDICTS = 20
"""Verdicts of one answer that are shown."""


def article(number: int, task: str, sources: Sequence[Source], parts: Sequence[Answered | None], longest: int) -> Html:
    """Everything about one task. `longest` bounds the characters shown of one text."""
    data = next((source.outputs.tasks.get(task) for source, part in zip(sources, parts, strict=True) if part), None)
    states = standings(sources, parts)
    inner = _inner(data, sources, parts, longest)
    return el(
        "article",
        _head(number, task, sources, parts),
        inner,
        id=f"t{number}",
        data_id=task,
        data_status=" ".join(states),
        data_score=_figure(
            [part.score(source.grades.summary["unit"]) for source, part in zip(sources, parts, strict=True) if part]
        ),
        data_cells=_figure([_cells(part) for part in parts if part]),
        data_votes=_figure([_agreement(part) for part in parts if part]),
        data_failed=str(sum(part.failed for part in parts if part)),
    )


def _inner(data: Any, sources: Sequence[Source], parts: Sequence[Answered | None], longest: int) -> Html:
    if not pictures.is_arc(data):
        return _texts(data, sources, parts, longest)
    draw = self_edits.task if any(map(self_edits.has_edits, sources)) else _arc
    return draw(data, sources, parts, longest)


def standings(sources: Sequence[Source], parts: Sequence[Answered | None]) -> list[str]:
    """The status of the task in every run, `absent` where the run does not have it."""
    units = [source.grades.summary["unit"] for source in sources]
    return [status_of(part.score(unit)) if part else "absent" for unit, part in zip(units, parts, strict=True)]


def _figure(values: Sequence[float | None]) -> str:
    """The mean of what there is, for sorting; nothing when there is nothing."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4f}" if known else ""


def _cells(part: Answered) -> float | None:
    cells = [asked.grade.figures["cells"] for asked in part.asked if "cells" in asked.grade.figures]
    return sum(cells) / len(cells) if cells else None


def _agreement(part: Answered) -> float | None:
    """The share of outputs behind the most voted candidate, averaged over the questions."""
    shares = [_top(asked) / asked.count for asked in part.asked if asked.count and asked.grade.detail.get("votes")]
    return sum(shares) / len(shares) if shares else None


def _top(asked: Asked) -> float:
    votes = [vote.get("votes", 0) for vote in pictures.votes_of(asked)]
    return max((vote for vote in votes if isinstance(vote, int | float)), default=0)


def _head(number: int, task: str, sources: Sequence[Source], parts: Sequence[Answered | None]) -> Html:
    facts: list[Html | str] = []
    if len(sources) == 1 and (part := parts[0]):
        facts.append(mark(standings(sources, parts)[0]))
        facts.append(el("span", _facts(part), cls="facts"))
    return el("header", el("h3", el("a", task, href=f"#t{number}")), *facts)


def _facts(part: Answered) -> str:
    said = []
    if len(part.scores) > 1:
        right = sum(1 for score in part.scores if score is not None and score >= 1.0)
        said.append(f"{right:,} of {some(len(part.scores), 'question')} right")
    if (cells := _cells(part)) is not None:
        said.append(f"cells {percent(cells)}")
    if (share := _agreement(part)) is not None:
        said.append(f"{percent(share)} of outputs behind the first attempt")
    if part.failed:
        said.append(f"{count(part.failed, 'output')} failed")
    if trained := _training(part):
        said.append(trained)
    return " · ".join(said)


def _training(part: Answered) -> str:
    """What the task's training did, as its first trained answer tells; the records may be from anybody."""
    told = next((one.trained for asked in part.asked for one in asked.outputs if one.trained), {})
    steps, texts, loss = told.get("steps"), told.get("texts"), told.get("loss")
    if type(steps) is not int or type(texts) is not int or not isinstance(loss, list):
        return ""
    course = [one for one in loss if type(one) is float]
    fall = f", loss {course[0]:.2f} to {course[-1]:.2f}" if course else ""
    return f"trained {count(steps, 'step')} on {count(texts, 'text')}{fall}"


def _arc(data: Mapping[str, Any], sources: Sequence[Source], parts: Sequence[Answered | None], longest: int) -> Html:
    wanted = sorted({asked.grade.question for part in parts if part for asked in part.asked})
    rows = [_question(data, question, sources, parts, longest) for question in wanted]
    return join([pictures.demonstrations(data), *rows])


def _question(
    data: Mapping[str, Any], question: str, sources: Sequence[Source], parts: Sequence[Answered | None], longest: int
) -> Html:
    answers = [
        next((asked for asked in part.asked if asked.grade.question == question), None) if part else None
        for part in parts
    ]
    reference = next((asked.reference for asked in answers if asked), None)
    runs = [
        _run(source, asked, reference, longest, len(sources) > 1)
        for source, asked in zip(sources, answers, strict=True)
    ]
    return el(
        "section",
        el("div", pictures.question(data, _index(question), reference), cls="asked"),
        el("div", *runs, cls="runs"),
        cls="question",
    )


def _index(question: str) -> int:
    """The number of the test input in `<task>/<number>`."""
    last = question.rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 4 else 0


def _run(source: Source, asked: Asked | None, reference: Any, longest: int, several: bool) -> Html:
    name = (
        el("h4", source.label, " ", mark(status_of(asked.grade.score) if asked else "absent")) if several else Html("")
    )
    if asked is None:
        return el("div", name, cls="run")
    return el("div", name, _ungraded(asked), pictures.attempts(asked, reference), fold(asked, longest), cls="run")


def _ungraded(asked: Asked) -> Html:
    return el("p", "Ungraded: ", asked.grade.reason, cls="error") if asked.grade.score is None else Html("")


def _texts(data: Any, sources: Sequence[Source], parts: Sequence[Answered | None], longest: int) -> Html:
    """Questions with reference and answers as rows of text."""
    rows = [
        _text_row(source, asked, longest, len(sources) > 1)
        for source, part in zip(sources, parts, strict=True)
        if part
        for asked in part.asked
    ]
    more = sum(len(part.scores) - len(part.asked) for part in parts if part)
    left = [el("p", f"{count(more, 'more question')} not shown", cls="none")] if more else []
    return join([_data(data, longest), *rows, *left])


def _data(data: Any, longest: int) -> Html:
    if data in (None, {}, []):
        return Html("")
    said = encode(data).decode()
    return el("details", el("summary", "Task data"), el("pre", cut(said, longest), dir="ltr", tabindex="0"), cls="raw")


def _text_row(source: Source, asked: Asked, longest: int, several: bool) -> Html:
    reference = asked.reference
    shown = reference if isinstance(reference, str) else "" if reference is None else encode(reference).decode()
    first = body(asked.outputs[0], min(longest, 400)) if asked.outputs else Html("")
    name = f"{source.label} · {asked.grade.question}" if several else asked.grade.question
    status = status_of(asked.grade.score)
    score = percent(asked.grade.score) if status == "partly" else ""
    return el(
        "section",
        el("p", el("b", name), " ", mark(status), " ", el("span", score, cls="facts"), cls="name"),
        _ungraded(asked),
        el(
            "dl",
            *_asked(asked, longest),
            *(el("dt", "Reference"), el("dd", cut(shown, longest) or "none"), el("dt", "Answer"), el("dd", first)),
            *_verdicts(asked.grade.detail, longest),
        ),
        fold(asked, longest) if asked.count > 1 or _long(asked, 400) else Html(""),
        cls="text",
    )


def _asked(asked: Asked, longest: int) -> tuple[Html, ...]:
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

"""The report section of self-edits: the reward curve, why replies trained nothing, and each task's edits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar

from hybrid.report.formatting import count_of, interval_text, percent, signed, status_badge, status_of
from hybrid.report.markup import Html, el, join, plain
from hybrid.report.output_texts import truncated
from hybrid.report.section import Measure, Section, TaskView
from hybrid.report.sources import QuestionResult, ReportRun
from hybrid.statistics.intervals import paired_difference
from hybrid.tasks.arc.pictures import SMALL, demonstrations, is_arc, picture

POINT = re.compile(r"round-(\d{1,3})/(train|eval)(?:/([a-z]{1,20}))?")
"""The name of a figure that is a point of the curve: round, split and arm; without an arm it is the self-edits'."""

SPLITS = {"train": "Training tasks", "eval": "Evaluation tasks"}
ARMS = {"": "self-edits", "random": "random", "fixed": "fixed", "base": "untrained"}

WIDE, HIGH, LEFT, TOP, BOTTOM = 340, 190, 40, 10, 160
"""The SVG's width and height and the edges of its axes, in SVG units."""

Points = dict[int, Mapping[str, Any]]
"""Round -> `mean`, `n` and `interval`."""


@dataclass(frozen=True)
class SealReport(Section):
    """The reward of every round as a curve, why replies trained nothing, and in each task every self-edit."""

    title: ClassVar[str] = "Self-edits"
    names: ClassVar[Mapping[str, str]] = {
        "any-right": "Some self-edit is right, by task",
        "any-right/random": "Some random configuration is right, by task",
        "valid": "Replies that hold a configuration",
        "bare": "Replies that hold nothing else",
        "trained": "Replies that something was trained for",
        "distinct": "Configurations that no earlier reply of the task had",
        "steps": "Optimizer steps, of the most allowed",
        "base": "the untrained model",
        "fixed": "the configuration that people chose",
        "random": "random configurations",
    }

    def wants(self, run: ReportRun) -> bool:
        """Whether the run's grades are those of self-edits."""
        return run.grader.startswith("self-edit")

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """The curves and the reasons why nothing was trained, run by run."""
        return join([_of_run(run, len(runs) > 1) for run in runs])

    def task(self, shown: TaskView) -> Html:
        """Demonstrations, test inputs with their truths, and every run's self-edits."""
        return _task(shown) if is_arc(shown.data) else Html("")

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """All figures but the points of the curve."""
        return {name: measure for name, measure in figures.items() if not POINT.fullmatch(name)}

    def style(self) -> str:
        """The CSS of the curves."""
        return files("pipelines.seal").joinpath("report.css").read_text(encoding="utf-8")


def _of_run(source: ReportRun, several: bool) -> Html:
    curves = _curves(source)
    drawn = [_chart(split, curves[split]) for split in SPLITS if split in curves]
    name = el("h4", source.label) if several else Html("")
    gain = _gain(source) if "eval" in curves and len(curves["eval"][""]) > 1 else Html("")
    mixed = el("p", "The score above is over all rounds and both splits; the curves show them apart.", cls="note")
    curve = [mixed, el("div", *drawn, cls="curves"), gain] if drawn else []
    return join([name, *curve, _untrained(source)])


def _curves(source: ReportRun) -> dict[str, dict[str, Points]]:
    """Split -> arm -> points, of the splits that have points."""
    found: dict[str, dict[str, Points]] = {}
    for name, measure in source.figures.items():
        point = POINT.fullmatch(name)
        if point and (point[3] or "") in ARMS:
            arms = found.setdefault(point[2], {arm: {} for arm in ARMS})
            arms[point[3] or ""][int(point[1])] = measure
    return {split: arms for split, arms in found.items() if arms[""]}


def _chart(split: str, arms: Mapping[str, Points]) -> Html:
    """The chart of a split: a line for each arm over the rounds, an interval bar for the self-edits, and a table."""
    rounds = sorted({number for points in arms.values() for number in points})
    drawn = [_frame(rounds)] + [_line(arm, points, rounds) for arm, points in reversed(list(arms.items())) if points]
    label = plain(f"{SPLITS[split]}: share of self-edits that solved their task, by round; the table has the numbers")
    svg = f'<svg class="curve" role="img" aria-label="{label}" viewBox="0 0 {WIDE} {HIGH}">{"".join(drawn)}</svg>'
    return el("figure", el("figcaption", el("b", SPLITS[split])), Html(svg), _numbers(arms, rounds), cls="chart")


def _frame(rounds: Sequence[int]) -> str:
    lines = [
        f'<path class="axis" d="M{LEFT} {_y(share)}H{WIDE - 10}"/><text x="{LEFT - 6}" y="{_y(share)}" '
        f'class="tick">{share * 100:.0f}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    lines += [
        f'<text x="{_x(number, rounds)}" y="{BOTTOM + 18}" class="round">round {number}</text>' for number in rounds
    ]
    return "".join(lines)


def _line(arm: str, points: Points, rounds: Sequence[int]) -> str:
    kind = f"arm {arm or 'edit'}"
    known = [(number, measure) for number, measure in sorted(points.items()) if measure["mean"] is not None]
    path = "L".join(f"{_x(number, rounds)} {_y(measure['mean'])}" for number, measure in known)
    drawn = f'<path class="{kind} line" d="M{path}"/>' if len(known) > 1 else ""
    for number, measure in known:
        x = _x(number, rounds)
        if not arm and measure["interval"]:
            low, high = measure["interval"]
            drawn += f'<path class="{kind} bar" d="M{x} {_y(low)}V{_y(high)}"/>'
        drawn += f'<path class="{kind} dot" d="M{x} {_y(measure["mean"])}h0"/>'
    return drawn


def _x(number: int, rounds: Sequence[int]) -> str:
    low, high = rounds[0], rounds[-1]
    part = (number - low) / (high - low) if high > low else 0.5
    return f"{LEFT + 34 + part * (WIDE - LEFT - 80):.1f}"


def _y(share: float) -> str:
    return f"{BOTTOM - min(max(share, 0.0), 1.0) * (BOTTOM - TOP):.1f}"


def _numbers(arms: Mapping[str, Points], rounds: Sequence[int]) -> Html:
    shown = [arm for arm, points in arms.items() if points]
    heads = [el("th", el("i", cls=f"key {arm or 'edit'}"), ARMS[arm], scope="col", cls="n") for arm in shown]
    rows = [
        el("tr", el("th", f"round {number}", scope="row"), *(_cell(arms[arm].get(number)) for arm in shown))
        for number in rounds
    ]
    return el("table", el("thead", el("tr", el("th", "", scope="col"), *heads)), el("tbody", *rows))


def _cell(point: Mapping[str, Any] | None) -> Html:
    if point is None:
        return el("td", "–", cls="n")
    return el(
        "td", percent(point["mean"]), el("small", f"{interval_text(point['interval'])}, n\u00a0{point['n']:,}"), cls="n"
    )


def _gain(source: ReportRun) -> Html:
    """The difference between the last and the first round on the evaluation tasks, paired by task."""
    sums: dict[str, dict[int, list[float]]] = {}
    for row in source.grade_rows():
        for name, value in row.figures.items():
            point = POINT.fullmatch(name)
            if point and point[2] == "eval" and not point[3]:
                sums.setdefault(row.task, {}).setdefault(int(point[1]), []).append(value)
    rounds = sorted({number for task in sums.values() for number in task})
    first, last = rounds[0], rounds[-1]
    means = {task: {number: sum(each) / len(each) for number, each in of.items()} for task, of in sums.items()}
    both = [
        (task, means[task][first], means[task][last]) for task in sorted(means) if {first, last} <= set(means[task])
    ]
    gain = paired_difference(both)
    text = (
        f"Round {last} against round {first} on the evaluation tasks: {signed(gain.mean)} points, 95 % interval "
        f"{signed(gain.low)} to {signed(gain.high)}, paired by task ({count_of(gain.n, 'task')})."
    )
    asked = {row.detail.get("policy") for row in source.grade_rows() if _split_of(row.figures) == "eval"}
    same = " Nothing was rewarded: every round asked the same model." if len(asked) == 1 else ""
    return el("p", text + same, cls="note")


def _split_of(figures: Mapping[str, float]) -> str:
    """The split of an edit's task, by the names of its figures."""
    points = (POINT.fullmatch(name) for name in figures)
    return next((point[2] for point in points if point), "")


def _untrained(source: ReportRun) -> Html:
    """How many replies trained nothing, by reason."""
    rows, reasons = 0, Counter[str]()
    for row in source.grade_rows():
        rows += 1
        if isinstance(why := row.detail.get("untrained"), str) and why:
            reasons[truncated(why, 100)] += 1
    if not reasons:
        return el(
            "p", f"Every one of {count_of(rows, 'self-edit')} was a configuration that could be trained.", cls="note"
        )
    text = ", ".join(f"{why} {number:,}" for why, number in sorted(reasons.items(), key=lambda one: (-one[1], one[0])))
    total = f"{sum(reasons.values()):,} of {count_of(rows, 'self-edit')} trained nothing: "
    return el("p", total, text, ". Their attempts are those of the untrained model.", cls="note")


def _task(shown: TaskView) -> Html:
    """One task: demonstrations, test inputs with their truths, and every run's self-edits."""
    reference = next((result.reference for _, result in shown.questions()), None)
    truths = reference if isinstance(reference, list) else []
    rows = [
        _row(result, truths, run.label if shown.several else "", shown.longest) for run, result in shown.questions()
    ]
    more = shown.left_out()
    left = [el("p", f"{count_of(more, 'more self-edit')} not shown", cls="none")] if more else []
    return join([demonstrations(shown.data), el("div", *_tests(shown.data, truths), cls="asked"), *rows, *left])


def _tests(data: Mapping[str, Any], truths: Sequence[Any]) -> list[Html]:
    shown = []
    for number, test in enumerate(data["test"][:20]):
        label = f"Test input {number + 1}"
        shown.append(picture(test.get("input") if isinstance(test, Mapping) else None, label, SMALL, spoken=label))
        if number < len(truths):
            shown.append(picture(truths[number], "Truth", SMALL, spoken="Truth", cls="truth"))
    return shown


def _row(result: QuestionResult, truths: Sequence[Any], label: str, longest: int) -> Html:
    detail, name = result.grade.detail, result.grade.question.partition("@")[2] or result.grade.question
    tried = detail.get("tried") if isinstance(detail.get("tried"), list) else []
    reply = str(detail.get("reply") or "")
    head = el(
        "p",
        el("b", f"{label} · {name}" if label else name),
        " ",
        status_badge(status_of(result.grade.score)),
        cls="name",
    )
    why = el("p", "Ungraded: ", result.grade.reason, cls="error") if result.grade.score is None else Html("")
    text = el(
        "details", el("summary", "Reply"), el("pre", truncated(reply, longest), dir="ltr", tabindex="0"), cls="raw"
    )
    grids = [
        _attempts(each, truths[number] if number < len(truths) else None) for number, each in enumerate(tried or [])
    ]
    return el(
        "section", head, why, el("p", _configured(detail), cls="facts"), *grids, text if reply else "", cls="text"
    )


def _attempts(tried: Any, truth: Any) -> Html:
    drawn = [
        picture(grid, f"Attempt {number}", SMALL, spoken=f"Attempt {number}", truth=truth)
        for number, grid in enumerate(tried[:2] if isinstance(tried, list) else [], start=1)
    ]
    return el("div", *(drawn or [el("p", "no attempt: no output holds a grid", cls="none")]), cls="attempts")


def _configured(detail: Mapping[str, Any]) -> str:
    """The configuration in words, or why nothing was trained."""
    edit = detail.get("edit")
    if not isinstance(edit, Mapping):
        return f"Nothing trained: {detail.get('untrained') or 'no configuration'}"
    on = [name for name in ("basic", "size", "chain", "repeat") if edit.get(name) is True]
    tokens = "all tokens" if edit.get("strategy") == "train_using_all_tokens" else "output tokens"
    text = f"{', '.join(on) or 'no augmentations'} · {tokens} · learning rate {edit.get('learning_rate')}"
    text += f" · {count_of(epochs, 'epoch') if type(epochs := edit.get('epochs')) is int else 'epochs unknown'}"
    if why := detail.get("untrained"):
        return f"Nothing trained: {why} · {text}"
    return f"{text} · {count_of(steps, 'step')}" if type(steps := detail.get("steps")) is int else text

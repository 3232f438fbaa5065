"""Paired differences of each run to the first, over the units that are graded in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from hybrid.errors import BadData
from hybrid.report.charts import interval_plot
from hybrid.report.formatting import signed
from hybrid.report.grades_file import GradesFile
from hybrid.report.markup import Html, el
from hybrid.report.sources import ReportRun
from hybrid.statistics.intervals import paired_difference

HOW_TO_READ = (
    "Each run minus the first, over the units that are graded in both, in percentage points. The interval is that of "
    "the paired difference, clustered by task. An interval that contains 0 shows no difference."
)

HOW_TO_READ_ARMS = (
    "Each arm minus the first, over the questions that are graded in both, in percentage points. The interval is that "
    "of the paired difference, clustered by task. An interval that contains 0 shows no difference. Below, a task is "
    "right or wrong as the first arm answered it."
)


@dataclass(slots=True)
class Difference:
    """One run, or arm, minus the first, in score units (0 to 1). `alone` counts units that are graded in one of the two
    only.
    """

    mean: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    better: int = 0
    worse: int = 0
    alone: int = 0
    why_not: str = ""


def difference(first: ReportRun, other: ReportRun) -> Difference:
    """The paired difference other - first, clustered by task. Raises BadData when a file is not in task order."""
    result = Difference(why_not=_why_not(first, other))
    if result.why_not or first.grades is None or other.grades is None:
        return result
    mean, low, high, result.n = paired_difference(_pairs(first.grades, other.grades, result))
    if result.n:
        result.mean, result.interval = mean, (low, high)
    else:
        result.why_not = "no question is graded in both"
    return result


def _why_not(first: ReportRun, other: ReportRun) -> str:
    """Why the scores of two runs cannot be subtracted; "" when they can."""
    one, two = first.grades, other.grades
    if one is None or two is None:
        return "not graded"
    if (one.grader, one.settings) != (two.grader, two.settings):
        return "judged by different graders or grader settings"
    if one.summary["unit"] != two.summary["unit"]:
        return "scores of different units"
    references = [source.outputs.run.get("references") for source in (first, other)]
    return "judged against different references" if None not in references and references[0] != references[1] else ""


def _pairs(first: GradesFile, other: GradesFile, result: Difference) -> Iterator[tuple[str, float, float]]:
    """Yield (task, first score, other score) of every unit that is graded in both; count into `result`."""
    first_scores, other_scores = _scores(first), _scores(other)
    one, two = next(first_scores, None), next(other_scores, None)
    while one or two:
        if one and two and one[0] == two[0]:
            if one[1] is not None and two[1] is not None:
                result.better += two[1] > one[1]
                result.worse += two[1] < one[1]
                yield one[0][0], one[1], two[1]
            else:
                result.alone += (one[1] is None) != (two[1] is None)
            one, two = next(first_scores, None), next(other_scores, None)
        elif two is None or (one and one[0] < two[0]):
            result.alone += one is not None and one[1] is not None
            one = next(first_scores, None)
        else:
            result.alone += two[1] is not None
            two = next(other_scores, None)


def _scores(grades: GradesFile) -> Iterator[tuple[tuple[str, str], float | None]]:
    """Yield ((task, question), score) in ascending order; for the unit `task` ((task, ""), lowest score or None)."""
    last = ("", "")
    for task, rows in groupby(grades.grades(), key=lambda row: row.task):
        scored = [(row.question, row.score) for row in rows]
        if grades.summary["unit"] == "task":
            values = [score for _, score in scored if score is not None]
            scored = [("", min(values) if len(values) == len(scored) else None)]
        for question, score in scored:
            if (task, question) < last:
                raise BadData(
                    f"{grades.path}: not in order of task and question (at {task} {question})",
                    hint="grade the outputs again",
                )
            last = (task, question)
            yield last, score


def comparison(sources: Sequence[ReportRun]) -> Html:
    """The section with the table of paired differences to the first run."""
    first = sources[0]
    rows = [_row(other.label, difference(first, other)) for other in sources[1:]]
    return _section("comparison", first.label, HOW_TO_READ, rows)


def arms_compared(run: ReportRun, label: str) -> Html:
    """The section with the paired differences of a run's arms to its first one; empty without several arms.

    `label` is that of the run where the page has several.
    """
    first, *others = (run.grades.summary["arms"] if run.grades else ()) or [""]
    if not others:
        return Html("")
    rows = [_row(arm, arm_difference(run, arm)) for arm in others]
    return _section(f"arms-{run.label}", f"{label}: {first}" if label else first, HOW_TO_READ_ARMS, rows)


def arm_difference(run: ReportRun, arm: str) -> Difference:
    """The paired difference of an arm to the first one, clustered by task, over the questions that both have."""
    result = Difference()
    mean, low, high, result.n = paired_difference(_arm_pairs(run, arm, result))
    if result.n:
        result.mean, result.interval = mean, (low, high)
    else:
        result.why_not = "no question is graded in both"
    return result


def _arm_pairs(run: ReportRun, arm: str, result: Difference) -> Iterator[tuple[str, float, float]]:
    """Yield (task, first arm's score, the arm's score) of every question that is graded in both; count the others."""
    for row in run.grade_rows():
        score = row.controls.get(arm)
        if row.score is None or score is None:
            result.alone += (row.score is None) != (score is None)
            continue
        result.better += score > row.score
        result.worse += score < row.score
        yield row.task, row.score, score


def _section(id: str, against: str, how: str, rows: Sequence[Html]) -> Html:
    columns = ("", "points", "95 % interval", "pairs", "better", "worse", "only one graded")
    head = el(
        "tr",
        *(el("th", name, scope="col", cls="n" if name else None) for name in columns),
        el("th", _axis(), scope="col", cls="axis"),
    )
    return el(
        "section",
        el("h2", "Against ", el("span", against)),
        el("p", how, cls="note"),
        el("div", el("table", el("thead", head), el("tbody", *rows), cls="scores paired"), cls="scroll", tabindex="0"),
        id=id,
    )


def _axis() -> Html:
    return el("span", *(el("span", label) for label in ("−100", "−50", "0", "+50", "+100")), cls="ticks")


def _row(label: str, found: Difference) -> Html:
    name = el("th", label, scope="row")
    if found.why_not:
        return el("tr", name, el("td", f"not compared: {found.why_not}", colspan=7, cls="none"))
    interval = "–" if found.interval is None else f"{signed(found.interval[0])} to {signed(found.interval[1])}"
    numbers = (signed(found.mean), interval, found.n, found.better, found.worse, found.alone)
    plot = interval_plot(
        found.mean, found.interval, f"{label}: {numbers[0]} points, interval {interval}", axis=(-1.0, 1.0)
    )
    return el(
        "tr", name, *(el("td", str(number), cls="n") for number in numbers), el("td", plot, cls="plotted"), cls="score"
    )

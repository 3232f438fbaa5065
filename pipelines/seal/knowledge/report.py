"""Runs of `seal-knowledge` on the page: arms side by side, rewards over rounds, each passage with all its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.metrics import Interval
from hybrid.report.charts import interval_plot
from hybrid.report.formatting import count_of, interval_text, percent, signed, status_badge, status_of
from hybrid.report.line_charts import Line, line_chart
from hybrid.report.markup import Html, el, join
from hybrid.report.output_texts import truncated
from hybrid.report.section import Measure, Section, TaskView
from hybrid.report.sources import QuestionResult, ReportRun
from hybrid.statistics.intervals import ClusteredMean, difference
from pipelines.seal.knowledge.arms import BASE
from pipelines.seal.knowledge.comparison import ROUND, Comparison, RoundRewards, arm_in, compare

NAMES = {
    "base": "no training", "context": "no training, passage shown", "passage": "trained on the passage",
    "given": "trained on the passage and given texts",
}  # fmt: skip
READING = (
    "Questions about evaluation passages, asked without the passage unless an arm shows it. Intervals are 95 %, "
    "clustered by passage; differences are of the same questions. An arm of several texts has the mean over them."
)
REWARDS = (
    "The reward of a text is the share of its passage's questions that are right after learning it. The best of "
    "several is above their mean by chance alone: what the writer has learned shows on the evaluation passages."
)
CURVE = "Share of right answers on training passages"
REWARD_COLUMNS = (
    "round", "passages", "different texts", "mean reward", "best", "before", "passages helped", "without a reward",
)  # fmt: skip
MOST_TEXTS = 20
"""Most texts of an arm that are shown of a passage."""


@dataclass(frozen=True)
class KnowledgeReport(Section):
    """The arms of a run, the rewards of its rounds, and its passages."""

    title: ClassVar[str] = "Arms"

    def wants(self, run: ReportRun) -> bool:
        """Runs whose records are answers of arms."""
        return run.pipeline == "seal-knowledge" and any(map(arm_in, run.first_outputs()))

    def headline(self, run: ReportRun) -> Html:
        """What the last writer's texts are worth on evaluation passages, beside no training."""
        found = _compared(run)
        writers = [name for name in found.names() if ROUND.fullmatch(name)]
        if not writers or not (right := found.arms[writers[-1]].right).n:
            return Html("No answer about an evaluation passage has a verdict yet.")
        gains = found.arms[writers[-1]].gains.get(BASE)
        told = f"; {_told(gains)} against no training" if gains and gains.n else ""
        last = f"After learning what the writer of round {writers[-1].removeprefix('round-')} wrote, "
        return join([Html(last), el("b", percent(right.mean)), f" of {right.n:,} questions are right{told}."])

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """The arms and the rewards, run by run."""
        parts: list[Html] = []
        for run in runs:
            found = _compared(run)
            parts += [el("h3", run.label)] if len(runs) > 1 else []
            parts += [_arms(found), _rewards(found)]
        return join(parts)

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """None: their means mix arms."""
        return {}

    def task(self, shown: TaskView) -> Html:
        """The passage, then every arm with what was learned, and its answers."""
        data = shown.data if isinstance(shown.data, Mapping) else {}
        if not isinstance(data.get("context"), str):
            return Html("")
        split = "Evaluation passage" if data.get("split") == "eval" else "Training passage"
        parts = [
            el("h4", truncated(str(data.get("title") or "Passage"), 200)),
            el("p", split, cls="facts"),
            el("p", truncated(data["context"], shown.longest), cls="passage", dir="auto"),
        ]
        for run, results in _by_run(shown):
            parts += [el("h5", run.label)] if shown.several else []
            parts += [_arm(name, results[name], shown.longest) for name in results]
        more = shown.left_out()
        parts += [el("p", f"{count_of(more, 'more answer')} not shown", cls="none")] if more else []
        return join(parts)

    def style(self) -> str:
        """The CSS of arms."""
        return (
            ".passage { font: 1rem/1.55 var(--serif); max-width: 44rem; white-space: pre-line; unicode-bidi: isolate; }"
            ".arm > summary { padding: .2rem 0; } .arm dd { margin-left: 1rem; }"
        )


def _compared(run: ReportRun) -> Comparison:
    with closing(run.outputs.records()) as records:
        return compare(records)


def _named(arm: str) -> str:
    return NAMES.get(arm, f"texts of the writer of {arm.replace('-', ' ')}")


def _arms(found: Comparison) -> Html:
    """A row for each arm on evaluation passages."""
    rows = []
    for name in found.names():
        of_arm = found.arms[name]
        interval = of_arm.right.interval()
        gains = {control: _told(of) for control, of in of_arm.gains.items() if of.n}
        cells = [
            el("td", _named(name)),
            el("td", percent(of_arm.right.mean), cls="n"),
            el("td", interval_plot(of_arm.right.mean, interval, f"{name}: {interval_text(interval)}")),
            el("td", interval_text(interval)),
            el("td", f"{of_arm.right.n:,}", cls="n"),
            el("td", f"{of_arm.failed.total():,}", cls="n"),
            el("td", "; ".join(f"{told} against {_named(one)}" for one, told in gains.items()) or "–"),
        ]
        rows.append(el("tr", *cells))
    if not rows:
        return Html("")
    head = ("arm", "right", "", "95 %", "questions", "answers without a score", "difference")
    table = el("table", el("thead", el("tr", *(el("th", one) for one in head))), el("tbody", *rows))
    return join([el("div", table, cls="scroll", tabindex="0"), el("p", READING, cls="note"), _failures(found)])


def _failures(found: Comparison) -> Html:
    """Why answers have no score, by arm."""
    told = [
        el("li", f"{_named(name)}: ", ", ".join(f"{why} {count:,}" for why, count in of.failed.most_common(5)))
        for name, of in found.arms.items()
        if of.failed
    ]
    return join([el("p", "Answers without a score, which count nowhere:"), el("ul", *told)]) if told else Html("")


def _told(gains: ClusteredMean) -> str:
    """A paired difference with its interval."""
    of = difference(gains)
    return f"{signed(of.mean)} ({signed(of.low)} to {signed(of.high)})"


def _rewards(found: Comparison) -> Html:
    """The rewards of every round: a curve with two rounds or more, and a table."""
    if not found.rounds:
        return Html("")
    kinds: Mapping[str, Any] = {
        "best text of a passage": lambda of: of.best, "mean of its texts": lambda of: of.texts,
        "before learning": lambda of: of.base,
    }  # fmt: skip
    lines = []
    for name, sums_of in kinds.items():
        points = {number: sums_of(of) for number, of in sorted(found.rounds.items()) if sums_of(of).n}
        band: dict[int, Interval] = {number: edges for number, of in points.items() if (edges := of.interval())}
        if points:
            lines.append(Line(name, {number: of.mean for number, of in points.items()}, band))
    chart = line_chart(CURVE, lines) if len(found.rounds) > 1 and lines else ""
    rows = [
        el("tr", *(el("td", one) for one in _round_cells(number, of))) for number, of in sorted(found.rounds.items())
    ]
    table = el("table", el("thead", el("tr", *(el("th", one) for one in REWARD_COLUMNS))), el("tbody", *rows))
    parts = [el("h3", "Rewards on training passages"), chart, el("div", table, cls="scroll", tabindex="0")]
    return join([*parts, el("p", REWARDS, cls="note")])


def _round_cells(number: int, of: RoundRewards) -> Iterator[str]:
    without = ", ".join(f"{why} {count:,}" for why, count in of.without.most_common(5))
    yield from (str(number), f"{of.passages:,}", f"{of.different:,} of {of.written:,}")
    yield from (percent(sums.mean) if sums.n else "–" for sums in (of.texts, of.best, of.base))
    yield from (f"{of.better:,}", without or "none")


def _by_run(shown: TaskView) -> Iterator[tuple[ReportRun, dict[str, list[QuestionResult]]]]:
    """Of each run the results by arm, an arm being the end of a question's name."""
    found: dict[str, tuple[ReportRun, dict[str, list[QuestionResult]]]] = {}
    for run, result in shown.questions():
        _, arms = found.setdefault(run.label, (run, {}))
        arms.setdefault(result.grade.question.partition("@")[2], []).append(result)
    yield from found.values()


def _arm(name: str, results: Sequence[QuestionResult], longest: int) -> Html:
    """One arm of a passage, folded: how many answers are right, what was learned, and the answers."""
    scores = [result.grade.score for result in results]
    right = sum(1 for score in scores if score == 1)
    ungraded = sum(1 for score in scores if score is None)
    told = f"{right} of {count_of(len(results) - ungraded, 'answer')} right"
    told += f", {ungraded} without a score" if ungraded else ""
    views = [output.view for result in results for output in result.outputs]
    texts: list[Any] = next((view["texts"] for view in views if isinstance(view.get("texts"), list)), [])
    trained = next((view["trained"] for view in views if isinstance(view.get("trained"), Mapping)), None)
    written = [one for one in texts[:MOST_TEXTS] if isinstance(one, str)]
    learned = [el("pre", truncated(one, longest), dir="auto", tabindex="0") for one in written]
    facts = [el("p", _facts(trained), cls="facts")] if trained else []
    summary = el("summary", el("b", _title(name)), f": {told}")
    return el("details", summary, *facts, *learned, *(_answer(one, longest) for one in results), cls="arm")


def _title(name: str) -> str:
    """An arm by the end of a question's name: `round-0-01.3` is the third training on the second text of round 0."""
    arm, _, number = name.rpartition("-")
    number, _, training = number.partition(".")
    writer = ROUND.fullmatch(arm)
    if number.isdecimal() and (writer or arm in NAMES):
        of = f"the writer of round {writer[1]}" if writer else "the given ones"
        return f"text {int(number) + 1} of {of}{f', training {training}' if training else ''}"
    return NAMES.get(name, name.replace("-", " "))


def _facts(trained: Mapping[str, Any]) -> str:
    told = [f"{name.replace('_', ' ')} {value:,}" for name, value in trained.items() if type(value) is int]
    return "Training: " + ", ".join(told) if told else "Trained"


def _answer(result: QuestionResult, longest: int) -> Html:
    """A question with reference, answer and verdict."""
    output = result.outputs[0] if result.outputs else None
    asked = output.view.get("question") if output else None
    reference = result.reference
    wanted = [one for one in (reference if isinstance(reference, list) else [reference]) if isinstance(one, str)]
    said = output.text if output and output.text is not None else ""
    failed = f"failed: {output.error.kind}" if output and output.error else ""
    return el(
        "dl",
        el("dt", truncated(asked if isinstance(asked, str) else result.grade.question, longest), " ",
           status_badge(status_of(result.grade.score))),
        el("dd", "answer: ", el("span", truncated(said, longest) or failed or "empty", dir="auto")),
        el("dd", "reference: ", truncated(" / ".join(wanted), longest)),
        *_verdict(result.grade.detail, result.grade.reason, longest),
    )  # fmt: skip


def _verdict(detail: Mapping[str, Any], reason: str, longest: int) -> list[Html]:
    """What decided: a rule, the judge's reason, or why nothing did."""
    verdicts = detail.get("verdicts")
    first = verdicts[0] if isinstance(verdicts, list) and verdicts and isinstance(verdicts[0], Mapping) else {}
    said = first.get("reason") or detail.get("by") or reason
    return [el("dd", "judged: ", truncated(str(said), longest))] if said else []

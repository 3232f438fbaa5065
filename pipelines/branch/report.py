"""Trees of candidates on the page: figures beside their control, and for each scenario what was kept, and the tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar

from hybrid.report.markup import Html, el, join
from hybrid.report.measures import measures_table
from hybrid.report.output_texts import truncated
from hybrid.report.section import Section, TaskView
from hybrid.report.sources import MAX_QUESTIONS, ReportRun, TaskResult
from pipelines.branch.funnel import budget, funnel, outcome
from pipelines.branch.order import order_warning
from pipelines.branch.reading import TreeNode, kept_of, node_of, trees
from pipelines.branch.tree_page import Names, cards, tree
from pipelines.branch.tree_pictures import heat_map, plane

MOST_SCENARIOS = 50
"""Whose kept texts stand at the beginning of the page."""
SAMPLES = (
    "A control is as many plain samples of the same prompt, without refusals and without selection, of which chance "
    "chose as many as were kept: the mean over such choices, and what holds 95 % of them; of a single choice "
    "its 95 % interval. "
    "Better and worse are said where the 95 % interval of the difference, made of both intervals, does not hold 0."
)
SCORES = (
    "A score is a kept text's part in the diversity of what was kept: 1 where it is unlike all others. Their mean is "
    "log(Vendi score) / log(number kept). What was not kept has none."
)


@dataclass(frozen=True)
class BranchReport(Section):
    """The figures of a run of `branch` beside their control, and its trees."""

    title: ClassVar[str] = "What the candidates are worth"
    opening_title: ClassVar[str] = "Kept"
    right_or_wrong: ClassVar[bool] = False
    names: ClassVar[Mapping[str, str]] = {
        "plain samples by chance": "plain samples, chosen by chance",
    }

    def wants(self, run: ReportRun) -> bool:
        """Runs whose records are nodes of a tree; the search of a run that is under way has none yet."""
        return any({"verdict", "depth", "parent"} <= one.view.keys() for one in run.first_outputs())

    def headline(self, run: ReportRun) -> Html:
        """How many candidates were kept, and what became of the others."""
        with closing(run.outputs.records()) as records:
            return outcome(node_of(output) for output in records)

    def opening(self, runs: Sequence[ReportRun], longest: int) -> Html:
        """What was kept, scenario by scenario, with what it grew from."""
        return join([_kept(run, longest, several=len(runs) > 1) for run in runs])

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """What was measured of all candidates together; nothing where nobody graded."""
        tables = [table for run in runs if (table := measures_table(run, several=len(runs) > 1))]
        return join([*tables, el("p", SAMPLES, cls="note")]) if tables else Html("")

    def task(self, shown: TaskView) -> Html:
        """A scenario: its funnel, what was kept, pictures, and the tree."""
        parts = [
            _scenario(run, part, shown)
            for run, part in zip(shown.runs, shown.parts, strict=True)
            if part and self.wants(run)
        ]
        return join([_brief(shown.data, shown.longest), *parts]) if parts else Html("")

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """What the score is."""
        return (SCORES,)

    def style(self) -> str:
        """Of trees, maps and tables."""
        return _asset("tree.css")

    def script(self) -> str:
        """Filter, comparison, and links into what is folded."""
        return _asset("tree.js")


def _kept(run: ReportRun, longest: int, *, several: bool) -> Html:
    parts = [el("h3", run.label)] if several else []
    with closing(run.outputs.records()) as records:
        for place, (task, nodes) in enumerate(trees(records)):
            if place == MOST_SCENARIOS:
                parts.append(el("p", "What the other scenarios kept stands with their trees.", cls="none"))
                break
            names = Names(run.label, task, nodes, longest)
            parts += [
                _brief(run.outputs.tasks.get(task), longest) or el("h4", task),
                cards(kept_of(nodes), nodes, names),
            ]
    return join(parts)


def _asset(name: str) -> str:
    return files("pipelines.branch").joinpath(name).read_text(encoding="utf-8")


def _brief(data: Any, longest: int) -> Html:
    known = data if isinstance(data, Mapping) else {}
    said = [
        el("p", truncated(text, longest)) for name in ("title", "brief") if isinstance(text := known.get(name), str)
    ]
    return el("div", *said, cls="brief") if said else Html("")


def _nodes(run: ReportRun, part: TaskResult, task: str) -> list[TreeNode]:
    """All nodes of a scenario; more than the page's questions are read from the file."""
    if len(part.scores) <= MAX_QUESTIONS:
        return [node_of(output) for result in part.questions for output in result.outputs]
    return list(_read(run, task))


def _read(run: ReportRun, task: str) -> Iterator[TreeNode]:
    with closing(run.outputs.records()) as records:
        for output in records:
            if output.task == task:
                yield node_of(output)


def _scenario(run: ReportRun, part: TaskResult, shown: TaskView) -> Html:
    nodes = _nodes(run, part, shown.task)
    kept = kept_of(nodes)
    names = Names(run.label, shown.task, nodes, shown.longest)
    short = [
        el("p", truncated(one.reason, shown.longest), cls="error") for one in nodes if not one.depth and one.reason
    ]
    warning = order_warning(nodes)
    about = run.outputs.run.get("about")
    pictures = el("div", plane(nodes, kept, names), heat_map(kept, names), cls="pictures")
    return join(
        [
            el("h4", run.label) if shown.several else Html(""),
            *short,
            el("p", warning[0].upper() + warning[1:] + ".", cls="error") if warning else Html(""),
            funnel(nodes),
            budget(nodes, about.get("budget") if isinstance(about, Mapping) else None),
            pictures,
            tree(nodes, names),
        ]
    )

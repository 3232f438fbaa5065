"""A swarm on the page: what has to be known, its arms beside their controls, curves, tasks, training and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar

from hybrid.canonical import encode
from hybrid.report.formatting import count_of, percent, signed
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Measure, Section, TaskView
from hybrid.report.sources import ReportRun
from pipelines.sapo.comparison import Comparison
from pipelines.sapo.configuration import MEETING
from pipelines.sapo.context import PART, context_of
from pipelines.sapo.figures import curves, node_curves
from pipelines.sapo.findings import NOTHING_LEARNED, findings
from pipelines.sapo.result_tables import arms, costs, notices, sharing, tasks, training
from pipelines.sapo.results import SERIES, in_order, read_swarms
from pipelines.sapo.rollout_texts import Looked, rollout_texts
from pipelines.sapo.series_page import series_page


@dataclass(frozen=True)
class SapoReport(Section):
    """The arms of a run of `sapo`, side by side."""

    title: ClassVar[str] = "Arms"
    right_or_wrong: ClassVar[bool] = False

    def wants(self, run: ReportRun) -> bool:
        """Runs whose records are rounds of arms with seeds."""
        return run.pipeline == "sapo" and any(SERIES.fullmatch(one.task) for one in run.first_outputs())

    def headline(self, run: ReportRun) -> Html:
        """What the arms earn and whether sharing helps, after what has to be known first."""
        return _headline(_comparison(run))

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """All parts, run by run, after the arms of all together where the runs differ in arms and seeds."""
        looked = [Looked(run) for run in runs]
        found = [_comparison(run, some) for run, some in zip(runs, looked, strict=True)]
        if len(runs) == 1:
            return join([_overall(found[0]), rollout_texts(runs[0], looked[0])])
        parts = [_together(found) if _differ_in_arms_alone(runs, found) else Html("")]
        for run, one, some in zip(runs, found, looked, strict=True):
            parts += [el("h3", run.label), _overall(one), rollout_texts(run, some)]
        return join(parts)

    def task(self, shown: TaskView) -> Html:
        """A series: its rounds, and its nodes in the last of them."""
        return series_page(shown, [self.wants(run) for run in shown.runs])

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """None: their means mix arms."""
        return {}

    def style(self) -> str:
        """Of the tables."""
        return files("pipelines.sapo").joinpath("report.css").read_text(encoding="utf-8")


def _comparison(run: ReportRun, looked: Looked | None = None) -> Comparison:
    part = run.grades.settings.get("part", PART) if run.grades and run.grader == "sapo" else PART
    with closing(run.outputs.records()) as records:
        passing = looked.passing(records) if looked else records
        return Comparison(read_swarms(passing), context_of(run.outputs.run, float(part)))


def _differ_in_arms_alone(runs: Sequence[ReportRun], found: Sequence[Comparison]) -> bool:
    """Whether runs are parts of one comparison: other arms or seeds of the same model, settings and questions.

    How their nodes meet may differ, too.
    """
    made_of = set()
    for run in runs:
        settings = run.outputs.run.get("settings")
        others = {k: v for k, v in settings.items() if k not in MEETING} if isinstance(settings, Mapping) else run.label
        model = [run.outputs.run.get(name) for name in ("backend", "model", "model_digest")]
        made_of.add(encode([others, model]))
    names = [swarm.name for one in found for swarm in one.swarms]
    return len(made_of) == 1 and len(set(names)) == len(names) > 1


def _together(found: Sequence[Comparison]) -> Html:
    """The arms of several runs, as if they were one."""
    every = Comparison(in_order([swarm for one in found for swarm in one.swarms]), found[0].context)
    return join([el("h3", "All runs together"), arms(every), sharing(every), curves(every), tasks(every)])


def _overall(comparison: Comparison) -> Html:
    if not comparison.swarms:
        return join([notices(findings(comparison)), el("p", "No round is there yet.", cls="none")])
    parts = (
        notices(findings(comparison)), arms(comparison), sharing(comparison), curves(comparison),
        node_curves(comparison), tasks(comparison), training(comparison), costs(comparison),
    )  # fmt: skip
    return join(parts)


def _headline(comparison: Comparison) -> Html:
    found = findings(comparison)
    weights = [one.weight for one in found]
    told = [count_of(weights.count(one), one) for one in ("fault", "warning") if one in weights]
    cold = list(dict.fromkeys(one.arm for one in found if one.name == NOTHING_LEARNED))
    said = [f"{' and '.join(told)}: see Arms."] if told else []
    said += [f"Nothing is learned by {', '.join(cold)} (cold start)."] if cold else []
    warning = el("b", " ".join(said), " ") if said else Html("")
    if not comparison.swarms:
        return Html("No round is there yet.")
    sentences = [_sentence(comparison, arm) for arm in comparison.arms]
    seeds = count_of(max(len(comparison.of(arm)) for arm in comparison.arms), "seed")
    return join([warning, *sentences, f"{count_of(len(comparison.arms), 'arm')}, {seeds}."])


def _sentence(comparison: Comparison, arm: str) -> Html:
    """reward_own and eval_pass1 of an arm, and the differences to those that do not share."""
    figures = comparison.figures
    own, held_out = (comparison.summary(arm, one) for one in (figures.own, figures.held_out))
    said = [
        f"reward_own {percent(own.mean)}" if own else "",
        f"eval_pass1 {percent(held_out.mean)}" if held_out else "",
    ]
    parts = [f" {', '.join(filter(None, said)) or 'no reward yet'}"]
    for control in comparison.controls(arm):
        pairs = [
            f"{signed(found.found.mean)} points in {one.name} ({found.verdict}"
            f"{', by the nodes of one seed' if found.over == 'nodes' else ''})"
            for one in (figures.own, figures.held_out)
            if (found := comparison.paired(arm, control, one))
        ]
        if pairs:
            parts.append(f"; against {control} {' and '.join(pairs)}")
    return join([el("b", f"{arm}:"), *parts, ". "])

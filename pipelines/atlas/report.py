"""Federated methods on the page: guards, the methods beside their controls, curves, clients, clusters and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar

from hybrid.report.formatting import count_of, percent, signed
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Measure, Section, TaskView
from hybrid.report.sources import ReportRun
from pipelines.atlas.clusters_table import clusters, ranks
from pipelines.atlas.comparison import ACCURACY, CONTROLS, MAJORITY, Comparison
from pipelines.atlas.cost_table import costs
from pipelines.atlas.exports import verdict
from pipelines.atlas.grader import about_of
from pipelines.atlas.result_charts import charts
from pipelines.atlas.result_tables import clients, evidence, guards, methods, tasks, until
from pipelines.atlas.results import NAME, read_series
from pipelines.atlas.series_page import series_page

SCORE = (
    "The score of a series is the accuracy of its last round on the dev rows. Scores of several methods have no common "
    "mean: the table of methods compares them."
)
OWN = "atlas"
"""The method that the headline speaks of, if the run has it."""


@dataclass(frozen=True)
class AtlasReport(Section):
    """The methods of a run of `atlas`, side by side."""

    title: ClassVar[str] = "Methods"
    right_or_wrong: ClassVar[bool] = False

    def wants(self, run: ReportRun) -> bool:
        """Runs whose records are rounds of methods with seeds."""
        return run.pipeline == "atlas" and any(NAME.fullmatch(one.task) for one in run.first_outputs())

    def headline(self, run: ReportRun) -> Html:
        """How the methods compare, in a sentence, after what makes the comparison void."""
        return _headline(_comparison(run))

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """All parts, run by run."""
        return join(
            join([el("h3", run.label) if len(runs) > 1 else Html(""), _overall(_comparison(run), _truth(run))])
            for run in runs
        )

    def task(self, shown: TaskView) -> Html:
        """A series: its rounds, and its clients in the last of them."""
        return series_page(shown, [self.wants(run) for run in shown.runs])

    def notes(self, runs: Sequence[ReportRun]) -> Sequence[str]:
        """What the score is."""
        return (SCORE,)

    def figures(self, run: ReportRun, figures: Mapping[str, Measure]) -> Mapping[str, Measure]:
        """None: their means mix methods."""
        return {}

    def style(self) -> str:
        """Of tables and charts."""
        return files("pipelines.atlas").joinpath("report.css").read_text(encoding="utf-8")


def _comparison(run: ReportRun) -> Comparison:
    target = run.grades.settings.get("target", 0.0) if run.grades and run.grader == "atlas" else 0.0
    with closing(run.outputs.records()) as records:
        return Comparison(read_series(records), *about_of(run.outputs.run), float(target))


def _truth(run: ReportRun) -> dict[str, str]:
    """Client -> the task that it truly has, as the run's data say; empty where they do not."""
    data: Any = run.outputs.tasks.get("data")
    known = data.get("clients") if isinstance(data, Mapping) else None
    return {str(name): str(task) for name, task in known.items()} if isinstance(known, Mapping) else {}


def _overall(comparison: Comparison, truth: Mapping[str, str]) -> Html:
    parts: Iterable[Html] = (
        guards(comparison.findings), methods(comparison), tasks(comparison), charts(comparison), until(comparison),
        costs(comparison), clients(comparison, truth), clusters(comparison, truth), ranks(comparison),
        evidence(comparison),
    )  # fmt: skip
    return join(parts)


def _headline(comparison: Comparison) -> Html:
    weights = [one.weight for one in comparison.findings]
    said = [f"{count_of(weights.count('fault'), 'fault')} found by the guards"] if "fault" in weights else []
    if "missing" in weights:
        said.append(f"{count_of(weights.count('missing'), 'series is', 'series are')} not whole")
    warning = el("b", f"{', '.join(said)}: see Methods. ") if said else Html("")
    found = {name: one for name in comparison.methods if (one := comparison.summary(name, ACCURACY))}
    if not found:
        return join([warning, "No series is whole and sound, so no method is compared."])
    method = OWN if OWN in found else max(found, key=lambda name: found[name].mean)
    parts = [el("b", f"{method}: {percent(found[method].mean)}"), " of the dev rows"]
    parts += [f", {_beside(comparison, method, control)}" for control in CONTROLS if comparison.paired(method, control)]
    if majority := comparison.summary(method, MAJORITY):
        parts.append(f"; the most frequent label {percent(majority.mean)}")
    seeds = count_of(max(one.n for one in found.values()), "seed")
    return join([warning, *parts, f". {count_of(len(found), 'method')}, {seeds}."])


def _beside(comparison: Comparison, method: str, control: str) -> str:
    found = comparison.paired(method, control)
    if found is None:
        return ""
    return f"{signed(found.mean)} points against {control} ({verdict(found)})"

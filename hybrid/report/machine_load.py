"""The load of the workers' machines while they worked for a run: utilization, power and memory over time; energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import ClassVar

from hybrid.errors import HybridError
from hybrid.execution.local_load import loads_here
from hybrid.folder.medium import Medium
from hybrid.folder.names import began_at
from hybrid.folder.notes import latest_note, writers
from hybrid.folder.runs import join_folder
from hybrid.machine.usage import METRICS, Usage, watt_hours
from hybrid.report.formatting import count_of
from hybrid.report.line_charts import Line, line_chart, number
from hybrid.report.markup import Html, el, join
from hybrid.report.section import Scope, Section
from hybrid.report.sources import ReportRun

MAX_WORKERS = 200
"""Most workers of a run that are drawn, the last by name."""
ACROSS = "minute"
UNKNOWN = "–"
EXPLAINED = (
    "What each worker, or `run local`, measured of its machine while it worked for this run: means, with a band up to "
    "the highest sample. Utilization is the share of time in which some kernel of the GPU ran, whatever part of the "
    "GPU it used; power and memory are those of all its GPUs, with what other processes take. Minutes count from the "
    "start of the run's first worker, by the machines' own clocks."
)


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What a worker reported, and when it began; None when its name does not say it."""

    name: str
    began: datetime | None
    usage: Usage


@dataclass(frozen=True)
class MachineLoad(Section):
    """A chart per measurement, a line per worker; a table of means, peaks and energy."""

    scope: ClassVar[Scope] = "general"
    title: ClassVar[str] = "Load of the machines"

    def wants(self, run: ReportRun) -> bool:
        """Whether a machine that worked for the run measured its load."""
        return any(True for _ in loads_of(run))

    def overall(self, runs: Sequence[ReportRun]) -> Html:
        """The table, then the charts."""
        loads = {run.label: list(loads_of(run)) for run in runs}
        charts = [
            line_chart(title, lines, across=ACROSS) for name, title in METRICS.items() if (lines := _lines(loads, name))
        ]
        return join([el("p", EXPLAINED, cls="note"), _table(loads), el("div", *charts, cls="all-series")])

    def style(self) -> str:
        """The CSS of the charts."""
        return files("hybrid.report").joinpath("curves.css").read_text(encoding="utf-8")


def loads_of(run: ReportRun) -> Iterator[WorkerLoad]:
    """What the machines measured that worked for a run, by name; nothing where its folder is not here."""
    name = run.outputs.run.get("id")
    if run.folder is None or not isinstance(name, str):
        return
    for attempt, measured in loads_here(run.folder, name):
        yield WorkerLoad(f"{attempt} (run local)", began_at(attempt), measured)
    with suppress(HybridError):
        folder = join_folder(run.folder, make=False)
        for attempt in writers(folder, name, "beat")[-MAX_WORKERS:]:
            if usage := _usage(folder, name, attempt):
                yield WorkerLoad(attempt, began_at(attempt), usage)


def _usage(folder: Medium, run: str, attempt: str) -> Usage | None:
    beat = latest_note(folder, run, "beat", attempt, [])
    return Usage.from_json(beat.get("usage")) if beat else None


def _lines(loads: Mapping[str, Sequence[WorkerLoad]], metric: str) -> list[Line]:
    """The lines of a metric, one a worker."""
    lines = []
    for label, workers in loads.items():
        first = min((one.began for one in workers if one.began), default=None)
        for one in workers:
            after = (one.began - first).total_seconds() if one.began and first else 0.0
            name = f"{label} · {one.name}" if len(loads) > 1 else one.name
            if any(value is not None for value in one.usage.means.get(metric, ())):
                lines.append(_line(name, one.usage, metric, after))
    return lines


def _line(name: str, usage: Usage, metric: str, after: float) -> Line:
    points, band = dict[int, float](), dict[int, tuple[float, float]]()
    for at, mean, highest in zip(usage.at, usage.means[metric], usage.highest[metric], strict=True):
        if mean is not None:
            minute = round((after + at) / 60)
            points[minute], band[minute] = mean, (mean, max(mean, highest or 0.0))
    return Line(name, points, band)


def _table(loads: Mapping[str, Sequence[WorkerLoad]]) -> Html:
    """A row per worker, and the sum of the energy of each run. What no worker measured has no column."""
    rows = list[tuple[str, dict[str, str]]]()
    for label, workers in loads.items():
        rows += [(f"{label} · {one.name}" if len(loads) > 1 else one.name, _cells(one.usage)) for one in workers]
        energy = [one.usage.energy_wh for one in workers if one.usage.energy_wh is not None]
        if len(energy) > 1:
            total = f"{label}, {count_of(len(workers), 'worker')}" if len(loads) > 1 else "together"
            rows.append((total, dict.fromkeys(_cells(workers[0].usage), "") | {"energy": watt_hours(sum(energy))}))
    names = [name for name in rows[0][1] if any(cells[name] not in ("", UNKNOWN) for _, cells in rows)] if rows else []
    head = el("tr", el("th", "worker", scope="col"), *(el("th", name, scope="col", cls="n") for name in names))
    body = [
        el("tr", el("th", name, scope="row"), *(el("td", cells[one], cls="n") for one in names)) for name, cells in rows
    ]
    return el("div", el("table", el("thead", head), el("tbody", *body)), cls="scroll rounds workers", tabindex="0")


def _cells(usage: Usage) -> dict[str, str]:
    """What one worker measured, by the name of the column."""
    return {
        "measured": _told(len(usage.at) * usage.period / 60, "min"),
        "GPUs": UNKNOWN if usage.gpus is None else number(usage.gpus),
        "GPU busy": _told(_mean(usage, "gpu_busy"), "%"),
        "GPU memory": _told(_peak(usage, "gpu_memory"), "GiB", 1 / 1024),
        "power": _told(_mean(usage, "power"), "W"),
        "energy": UNKNOWN if usage.energy_wh is None else watt_hours(usage.energy_wh),
        "CPU": _told(_mean(usage, "cpu"), "%"),
        "memory": _told(_peak(usage, "memory"), "GiB", 1 / 1024),
    }


def _told(value: float | None, unit: str, factor: float = 1.0) -> str:
    return UNKNOWN if value is None else f"{number(value * factor)} {unit}"


def _mean(usage: Usage, metric: str) -> float | None:
    """The mean over the periods, each of which counts the same."""
    known = [value for value in usage.means.get(metric, ()) if value is not None]
    return sum(known) / len(known) if known else None


def _peak(usage: Usage, metric: str) -> float | None:
    return max((value for value in usage.highest.get(metric, ()) if value is not None), default=None)

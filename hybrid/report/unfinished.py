"""A run whose last stage waits for earlier ones: the status of its stages, and the outputs of the last with records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hybrid.errors import Waits
from hybrid.execution.assembly import MISSING, assembled
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.execution.index import with_index
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run
from hybrid.machine import home
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Output
from hybrid.report.sources import ReportRun, Unfinished
from hybrid.work import Search


def unfinished_run(run: Run, folder: Path, place: Path) -> ReportRun:
    """The run in its present state; the outputs of the shown stage are written into `place`.

    Raises CannotRun when its pipeline cannot be loaded, Temporary when the outputs cannot be written.
    """
    chain = bound(run, pipeline_of(run))
    views = _views(chain, folder)
    known = [(stage, view) for stage, view in zip(chain.stages, views, strict=True) if view.total is not None]
    shown = next((stage for stage, view in reversed(known) if view.done), chain.stages[0])
    path = place / "outputs.json"
    with assembled(chain.run, shown) as assembly:
        outputs = _texts(assembly.outputs()) if isinstance(shown.work, Search) else assembly.outputs()
        write_outputs(path, {**run.spec, "id": run.id}, assembly.models, run.tasks(), outputs)
    return ReportRun(run.id, open_outputs(path), None, Unfinished(views, shown.name), folder)


def _texts(outputs: Iterator[Output]) -> Iterator[Output]:
    """What is answered of a search, without embeddings: the items that its walks wait for are no failures."""
    for one in outputs:
        if one.vector is None and not (one.error and one.error.kind == MISSING.kind):
            yield one


def _views(chain: Bound, folder: Path) -> list[StageView]:
    """The status of every stage. Raises the pipeline's exception when a stage could not list its items."""
    stages, store = [(stage.name, stage) for stage in chain.stages], Disk(home.received_of(folder))
    views = with_index(
        home.index_of(folder), lambda index: stage_views(chain.run, stages, store, index, (), again_waits=False)
    )
    for view in views:
        if view.error and not isinstance(view.error, Waits):
            raise view.error
    return views

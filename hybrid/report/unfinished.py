"""A run whose last stage waits for earlier ones: the status of its stages, and the outputs of the last with records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hybrid.errors import Waits
from hybrid.execution.assembly import MISSING, assembled
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.execution.index import with_index
from hybrid.execution.local import so_far_path
from hybrid.execution.so_far import write_so_far
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run
from hybrid.machine import home
from hybrid.outputs import open_outputs, write_outputs
from hybrid.records import Output
from hybrid.report.sources import ReportRun, Unfinished, find_source
from hybrid.work import Search


def unfinished_run(run: Run, folder: Path, place: Path, grader: str = "") -> ReportRun:
    """The run in its present state; the outputs of the shown stage are written into `place`.

    Where its last stage makes sense of unfinished ones it is that stage, with the grades of this state, if there are
    any; with a `grader` there must be. Raises Waits when a `grader` is named for any other run, CannotRun when its
    pipeline cannot be loaded, Temporary when the outputs cannot be written.
    """
    pipeline = pipeline_of(run)
    chain = bound(run, pipeline)
    views = _views(chain, folder)
    waits = Waits(f"{run.id}: its last stage waits for earlier ones, so that there are no grades yet")
    graded = so_far_path(folder, run)
    path = graded if graded.is_file() else place / "outputs.json"
    try:
        write_so_far(run, pipeline, path, waits)
    except Waits:
        if grader:
            raise
    else:
        state = Unfinished(views, chain.stages[-1].name)
        return replace(find_source(path, grader), unfinished=state, folder=folder)
    return _last_known(chain, views, folder, place)


def _last_known(chain: Bound, views: list[StageView], folder: Path, place: Path) -> ReportRun:
    """The outputs of the last stage that has records."""
    run = chain.run
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

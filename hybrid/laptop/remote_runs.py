"""A laptop's operations on a remote run: submit it, fetch its results, cancel it, retry failed items."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid import settings
from hybrid.backends.registry import refuse_unknown_backend, refuse_untrainable
from hybrid.errors import HybridError, Temporary, UsageError, Waits
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.execution.engines import trained_roles
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import assemble_or_spare, opened_run, stages_with_items
from hybrid.execution.roles import embedding_roles, naming_role, refuse_missing, stages_of_run, stages_with, with_grader
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.folder.in_memory import InMemoryFolder
from hybrid.folder.medium import Disk
from hybrid.folder.names import BESIDE_STAGES, allowed
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.folder.spec import ModelSpec
from hybrid.laptop.receiver import Received, receiver_of
from hybrid.machine import home
from hybrid.plugins.faults import inputs_of
from hybrid.protocols import Pipeline, Side


def submit_remote(
    folder: Path,
    name: str,
    pipeline: Pipeline,
    models: Mapping[str, ModelSpec],
    sides: Mapping[str, Side] | None = None,
) -> Run:
    """Write a run into the folder for workers to execute. Equal settings, data and models give the same run.

    `models` is by role. A digest pins the model's files; with "" the first worker's files become the run's. Submitting
    a cancelled run again revokes the cancel. `sides` puts stages and roles on other sides than the pipeline; what was
    put there before and is not named now is put back. Raises the error of items that cannot be made before anything is
    written. The folder is never created here: while a mount is missing, that would make a local folder in its place.
    """
    refuse_missing(pipeline, models)
    trained, embedding = trained_roles(stages_with(pipeline, models)), embedding_roles(pipeline)
    for role, model in models.items():
        with naming_role(role):
            refuse_unknown_backend(model.backend, embeds=role in embedding)
            if role in trained:
                refuse_untrainable(model.backend)
    frozen, inputs = settings.freeze(pipeline), with_grader(inputs_of(pipeline), pipeline, models)
    place = join_folder(folder, make=False)
    stages_with_items(submit(InMemoryFolder(), name, frozen, inputs, models), pipeline)
    run = submit(place, name, frozen, inputs, models)
    receiver = receiver_of(folder, run)
    receiver.resume()
    receiver.sides(sides or {})
    return run


@dataclass(frozen=True, slots=True)
class Fetched:
    """The status of a run on this machine after a fetch. `stages` are those whose items are known.

    `waits` says why some stages' items are unknown, "" when none are. While it is set, outputs.json is missing or old.
    """

    run: Run
    new: Received
    stages: tuple[StageView, ...]
    outputs: Path
    sha256: str
    waits: str = ""

    @property
    def items(self) -> int:
        return sum(one.total or 0 for one in self.stages)

    @property
    def missing(self) -> int:
        """Items without a record here."""
        return sum(one.missing or 0 for one in self.stages)

    @property
    def failed(self) -> int:
        """Items with failures only, each counted in the stage where it failed."""
        return sum(one.own_failures + one.again for one in self.stages)

    @property
    def again(self) -> int:
        """Failed items that are to be done again."""
        return sum(one.again for one in self.stages)

    @property
    def done(self) -> bool:
        return not self.missing and not self.again and not self.waits


def fetch(folder: Path, name: str, outputs: Path, spare: Path | None = None, *, published: bool = False) -> Fetched:
    """Receive the new shards of a run, acknowledge them, and write outputs.json; with `published`, receive what its
    loops have published as well.

    Written to `spare` where `outputs` cannot be written. Raises Temporary when the folder is unavailable or a
    disk is full: nothing is lost, and the same call resumes.
    """
    run = opened_run(folder, name)
    receiver = receiver_of(folder, run)
    try:
        pipeline = pipeline_of(run)
        stages = [stage.name for stage in stages_of_run(run, pipeline)]
    except HybridError:
        receiver.receive(_stages_there(run))  # copy the shards all the same: that does not need the pipeline
        raise
    new = receiver.receive(stages)
    if published:
        receiver.receive_segments(new)
    here = replace(
        run, sources=(Disk(home.received_of(folder)),)
    )  # shards that arrive meanwhile are for the next fetch
    chain, sha256, waits = bound(here, pipeline), "", ""
    try:
        sha256, outputs = assemble_or_spare(chain, outputs, spare)
    except Waits as error:
        waits = error.message
    views = _views(folder, chain, receiver.orders().set_aside, new.damaged)
    return Fetched(run, new, tuple(views), outputs, sha256, waits)


def _views(folder: Path, chain: Bound, aside: Collection[str], damaged: Collection[str] = ()) -> list[StageView]:
    """The status of the stages whose items are known. `damaged` shards have changed since they were verified."""
    stages = [(stage.name, stage) for stage in chain.stages]

    def work(index: Index) -> list[StageView]:
        if damaged:
            index.forget(damaged)
        store = Disk(home.received_of(folder))
        return stage_views(chain.run, stages, store, index, aside, again_waits=False)

    views = with_index(home.index_of(folder), work)
    for view in views:
        if view.error and not isinstance(view.error, Waits):
            raise view.error
    return [view for view in views if view.total is not None]


def _stages_there(run: Run) -> list[str]:
    """The stages that have a subfolder in the run."""
    found = {one.name for one in run.folder.entries(run.place) if one.kind == "folder"}
    return sorted(name for name in found - set(BESIDE_STAGES) if allowed(name))


def cancel(folder: Path, name: str) -> Run:
    """Ask the workers of a run to stop. Nothing is deleted; `resume` or submitting it again revokes it."""
    run = opened_run(folder, name)
    receiver_of(folder, run).cancel()
    return run


def retry(folder: Path, name: str) -> tuple[Run, int]:
    """Ask for the failed items of a run again. Returns the run and how many items are to be done again."""
    run = opened_run(folder, name)
    receiver = receiver_of(folder, run)
    chain = bound(run, pipeline_of(run))
    asking = [stage.name for stage in chain.stages if stage.asks_a_model]  # derived texts follow from these
    views = [one for one in _views(folder, chain, receiver.orders().set_aside) if one.name in asking]
    count, shards = sum(view.failed for view in views), {path for view in views for path in view.failed_in}
    receiver.retry(shards if count else ())
    if not count:
        if pending := sum(view.again for view in views):
            return run, pending
        if unread := [reason for view in views for reason in view.refused]:
            raise Temporary(
                f"{run.id} has no failed items in what can be read now; {unread[0]}",
                hint="`hybrid doctor` explains each file that cannot; then run the command again",
            )
        raise UsageError(f"{run.id} has no failed items to do again", hint="`hybrid status` shows its status")
    return run, count

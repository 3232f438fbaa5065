"""`hybrid run local`: freezes a run, executes its stages on this machine and assembles the outputs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hybrid import settings
from hybrid.backends.registry import NOTHING_TO_LOAD
from hybrid.errors import CannotRun, HybridError, Temporary, UsageError, Waits
from hybrid.execution.assembly import Assembly, assembled
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.execution.chosen_model import Engine
from hybrid.execution.engines import Engines, engine_for, ensemble_for, needs_tensors, trained_roles
from hybrid.execution.local_load import local_load
from hybrid.execution.loop_engine import Shelves
from hybrid.execution.pages import write_pages
from hybrid.execution.roles import naming_role, refuse_missing, stages_with, with_grader
from hybrid.execution.so_far import write_so_far
from hybrid.execution.stage_session import run_stage
from hybrid.execution.stage_view import StageView, counted_once
from hybrid.folder.in_memory import InMemoryFolder
from hybrid.folder.medium import Disk, Medium
from hybrid.folder.names import new_attempt
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import Run, join_folder, open_run, submit
from hybrid.folder.spec import ModelSpec
from hybrid.folder.tensors import RunTensors
from hybrid.machine import home
from hybrid.machine.lock import exclusive_lock
from hybrid.machine.replacing import make_room, refuse_foreign
from hybrid.machine.store_urls import is_url
from hybrid.machine.terminal import count_of
from hybrid.outputs import BEGINS, open_outputs, write_outputs
from hybrid.plugins.faults import attributed_to, inputs_of
from hybrid.progress import Observer
from hybrid.protocols import Backend, Pipeline, Stage
from hybrid.work import Search

DEFAULT_FOLDER = "hybrid-folder"
FILE_ENDINGS = {".json", ".jsonl", ".zst"}
SO_FAR = "so-far"
"""The folder, beside the place of a run's outputs.json, of outputs that are not whole."""
LOG = logging.getLogger("hybrid")
Written = TypeVar("Written")


def chosen_folder(folder: Path | None) -> Path:
    """`--folder`, else HYBRID_FOLDER, else the folder of `hybrid init`, else `hybrid-folder` in the current folder."""
    named = os.environ.get("HYBRID_FOLDER")
    return folder or (home.folder_at(named) if named else home.joined_folder()) or Path(DEFAULT_FOLDER)


def opened_run(folder: Path, name: str) -> Run:
    """The run with that id, or beginning of an id, and this machine's copies of it. Raises UsageError, BadData."""
    return open_run(join_folder(folder, make=False), name, (Disk(home.received_of(folder)),))


def outputs_path(folder: Path, run: Run) -> Path:
    """The default path of a run's outputs.json, below the folder."""
    return folder / "results" / run.id / "outputs.json"


def so_far_path(folder: Path, run: Run) -> Path:
    """The path of outputs that are not whole, for a run whose last stage waits."""
    return outputs_path(folder, run).parent / SO_FAR / "outputs.json"


def note_outputs(folder: Path, run: Run, path: Path) -> None:
    """Remember where outputs were written that are not at their default path, so that `hybrid runs` finds them."""
    if path.absolute() != outputs_path(folder, run).absolute():
        with suppress(
            HybridError, ValueError
        ):  # a home that cannot be written, a name that is no text: no outputs lost
            home.note_outputs(folder, run.id, path)


@dataclass(frozen=True, slots=True)
class Effort:
    """How a run is executed here: the seconds after which a shard is closed, and whether failures are done again."""

    shard_seconds: float = 60.0
    retry_failed: bool = False


@dataclass(frozen=True, slots=True)
class LocalResult:
    """A run executed here: the path and sha256 of its outputs, its stages, and how many items were done just now."""

    run: Run
    outputs: Path
    sha256: str
    stages: tuple[StageView, ...]
    fresh: int

    @property
    def total(self) -> int:
        return sum(stage.total or 0 for stage in self.stages)

    @property
    def failed(self) -> int:
        return sum(stage.own_failures for stage in self.stages)


def run_here(
    folder: Path,
    name: str,
    pipeline: Pipeline,
    models: Mapping[str, Engine],
    observer: Observer,
    output: Path | None = None,
    effort: Effort | None = None,
    begins: Callable[[Run], None] = lambda run: None,
) -> LocalResult:
    """Freeze a run into the folder, which is created if necessary, and execute what is left of it.

    `models` maps roles to engines. The same settings, data and models are the same run. outputs.json is written to
    `output`, or to `outputs_path`. `begins` is called with the run as soon as it is in the folder.

    A new run is frozen only after its data, items, backend, options and model proved valid, so its model is loaded
    first. The model of a run that the folder has already is loaded only if an item is left to do. Raises NotFinished on
    Ctrl-C, Temporary when another process on this machine works on the run.
    """
    refuse_missing(pipeline, models)
    stages = stages_with(pipeline, models)
    trained = trained_roles(stages)
    for role, one in models.items():
        with naming_role(role):
            one.check(trains=role in trained)
    frozen = _frozen(name, pipeline, models)
    draft = frozen(InMemoryFolder())
    outputs = output or outputs_path(folder, draft)
    refuse_foreign(outputs, BEGINS)
    tensors = RunTensors(draft.id, new_attempt(), Disk(folder))
    segments = Shelves(draft.id, Disk(folder), None, time.monotonic)
    with Engines() as engines:
        load = partial(_loaded, models, observer)

        def open_for(run: Run, stage: Stage) -> Backend:
            if isinstance(stage.work, Search):
                return ensemble_for(engines, run, stage, load, lambda role: models[role].options)
            kept = tensors if needs_tensors(stage, stages) else None
            options = models[stage.role].options
            return engine_for(engines, run, stage, run.models[stage.role].digest, kept, load, options, segments)

        if not _is_there(folder, draft):
            _check(draft, pipeline, open_for)
        run = frozen(join_folder(folder, make=True))
        begins(run)
        return _execute(run, pipeline, open_for, observer, outputs, effort or Effort())


def _frozen(name: str, pipeline: Pipeline, models: Mapping[str, Engine]) -> Callable[[Medium], Run]:
    """A function that writes the run into a folder. Wrong models, settings or data raise an error before that."""
    values, inputs = settings.freeze(pipeline), with_grader(inputs_of(pipeline), pipeline, models)
    named: dict[str, ModelSpec] = {}
    for role, engine in models.items():  # after the data: to tell a model's digest can take long
        with naming_role(role):
            named[role] = engine.spec()

    def frozen(place: Medium) -> Run:
        return submit(place, name, values, inputs, named)

    return frozen


def _is_there(folder: Path, draft: Run) -> bool:
    """Whether a run is in the folder already. Raises BadData for a foreign folder, CannotRun for a read-only one."""
    if (folder / "hybrid.json").exists():
        join_folder(folder, make=False)
    _refuse_read_only(folder)
    return (folder / draft.place / "run.json").is_file()


def _check(draft: Run, pipeline: Pipeline, open_for: Callable[[Run, Stage], Backend]) -> None:
    """Make every item that depends on no output, and load the model of the first of them."""
    stages = stages_with_items(draft, pipeline)
    if stages:
        open_for(draft, stages[0])


def stages_with_items(draft: Run, pipeline: Pipeline) -> list[Stage]:
    """The stages that depend on no other and have items, all of which are made. Raises what a stage raises."""
    tasks = draft.tasks()
    known = [stage for stage in bound(draft, pipeline).stages if not stage.after]
    return [stage for stage in known if sum(1 for _ in stage.items(tasks)) > 0]


def _loaded(models: Mapping[str, Engine], observer: Observer, role: str, *, trains: bool) -> Backend:
    engine = models[role]
    if engine.backend not in NOTHING_TO_LOAD:
        observer.loading(engine.model)
    with attributed_to(f"the backend '{engine.backend}'", f"loading the model '{engine.model}'"):
        backend = engine.open(trains=trains)
    observer.loaded(engine.model, str(backend.model.about.get("device") or ""))
    return backend


def _execute(
    run: Run,
    pipeline: Pipeline,
    open_for: Callable[[Run, Stage], Backend],
    observer: Observer,
    outputs: Path,
    effort: Effort,
) -> LocalResult:
    """Execute what is left of every stage, one after the other, and write outputs.json."""
    make_room(outputs, BEGINS)
    place = Path(f"{run.folder}/{run.place}")
    _refuse_read_only(place)
    chain = bound(run, pipeline)
    with exclusive_lock(place, f"is at work on {run.id}"):
        journals = Journals(home.journals_of(Path(str(run.folder))))
        journals.recover(run, run.folder)
        how: Any = {"shard_seconds": effort.shard_seconds, "retry_failed": effort.retry_failed, "journals": journals}
        with local_load(Path(str(run.folder)), run.id) as load:

            def opened(stage: Stage) -> Backend:
                load.begin()
                return open_for(run, stage)

            stages = [run_stage(run, stage, partial(opened, stage), observer, **how) for stage in chain.stages]
        sha256 = assemble(chain, outputs)
    views = counted_once([view for view, _ in stages], chain.stages)
    return LocalResult(run, outputs, sha256, tuple(views), sum(fresh for _, fresh in stages))


def assemble(chain: Bound, path: Path) -> str:
    """Write outputs.json, with one record for every item of the last stage, and the pipeline's pages beside it.

    Returns the sha256 of outputs.json. A missing record is written as a failure. Raises Waits when an earlier stage is
    not finished: the items of the last stage are then unknown.
    """
    make_room(path, BEGINS)
    chain.refuse_waiting()
    run = chain.run
    with assembled(run, chain.stages[-1]) as assembly:
        models = chain.models(assembly.models)
        sha256 = _more_complete(path, run.id, assembly) or write_outputs(
            path, {**run.spec, "id": run.id}, models, run.tasks(), assembly.outputs(), home.parts_folder()
        )
    if chain.pipeline:
        write_pages(chain.pipeline, path)
    return sha256


def assemble_or_spare(chain: Bound, path: Path, spare: Path | None) -> tuple[str, Path]:
    """As `assemble`; in `spare` instead where there is no room or permission for `path`. Returns the place, too."""
    return _written_or_spare(partial(assemble, chain), path, spare)


def _written_or_spare(write: Callable[[Path], Written], path: Path, spare: Path | None) -> tuple[Written, Path]:
    """What `write` returns, and the place it wrote to: `path`, or `spare` where that has no room or permission."""
    try:
        return write(path), path
    except (Temporary, CannotRun, UsageError) as error:
        if not spare:
            raise
        LOG.warning("%s is not renewed: %s", path, error.message)
    return write(spare), spare


def _more_complete(path: Path, run: str, assembly: Assembly) -> str:
    """The sha256 of the outputs file at `path` if it has more answers of the run than the shards have now; else "".

    Shards may have been damaged or deleted since it was written. A file that is incomplete, or that holds answers of
    another model than the run's, is not kept.
    """
    now = assembly.answers
    if now == assembly.items or not path.is_file():
        return ""
    try:
        with closing(open_outputs(path)) as before:
            answers = sum(one.error is None for one in before.records())
    except HybridError:
        return ""
    models = {str(one.get("digest")) for one in before.models if isinstance(one, Mapping)}
    now_by = {str(one["digest"]) for one in assembly.models}
    if before.run.get("id") != run or answers <= now or not models >= now_by:
        return ""
    LOG.warning("%s is kept: it has %s, of which %d can be read now", path, count_of(answers, "answer"), now)
    return str(before.sha256)


def _refuse_read_only(place: Path) -> None:
    """Raise CannotRun when `place`, or the nearest existing folder above it, is read-only."""
    there = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise CannotRun(f"no permission to write into {there}", hint="choose another folder: --folder")


def find_outputs(source: str, folder: Path | None, spare: Path | None = None) -> str:
    """The outputs file that SOURCE means: a file, `-`, a folder that holds one, or a run, which is assembled again.

    A run is given by its id, or the beginning of one, in the chosen folder; by its own folder; or by a shared folder
    with one run. A run is assembled in `spare` where its own place cannot be written.
    Raises UsageError when SOURCE is none of these.
    """
    path = Path(source)
    if source == "-" or path.is_file():
        return source
    if (path / "outputs.json").is_file():
        return str(path / "outputs.json")
    return str(outputs_of(*_place_of(source, folder), spare))


def find_outputs_so_far(source: str, folder: Path | None, spare: Path | None = None) -> tuple[str, Waits | None]:
    """As `find_outputs`; of a run whose last stage waits for earlier ones the outputs so far, and for what it waits."""
    try:
        return find_outputs(source, folder, spare), None
    except Waits as waits:
        return _outputs_so_far(source, folder, waits, spare), waits


def _outputs_so_far(source: str, folder: Path | None, waits: Waits, spare: Path | None) -> str:
    """The outputs of a run whose last stage waits, made of what its earlier stages have; in a folder of their own, or
    in `spare` where that cannot be written.

    Raises `waits` for a run of a pipeline that makes no sense of unfinished stages.
    """
    here, name = _place_of(source, folder)
    run = opened_run(here, name)
    write = partial(write_so_far, run, pipeline_of(run), waits=waits)
    return str(_written_or_spare(write, so_far_path(here, run), spare)[1])


def find_run(source: str, folder: Path | None) -> Run | None:
    """The run that SOURCE means, as for `find_outputs`; None for a file, `-` and a folder that holds outputs.

    Raises UsageError when it is none of these.
    """
    path = Path(source)
    if source == "-" or path.is_file() or (path / "outputs.json").is_file():
        return None
    return opened_run(*_place_of(source, folder))


def _place_of(source: str, folder: Path | None) -> tuple[Path, str]:
    """The shared folder of a run, and its id, the beginning of one, or "" for the only one there. Raises UsageError."""
    path = Path(source)
    if (path / "run.json").is_file():
        return path.resolve().parent.parent, path.resolve().name
    if (path / "hybrid.json").is_file():
        return path, ""
    if is_url(source):
        return home.folder_at(source), ""
    here = chosen_folder(folder)
    if path.suffix in FILE_ENDINGS or (here == Path(DEFAULT_FOLDER) and not (here / "hybrid.json").is_file()):
        raise UsageError(
            f"there is no file '{source}', and no run of that name in {here}",
            hint="name an outputs.json, a .jsonl, a .jsonl.zst, - for standard input, or a run with its --folder",
        )
    return here, source


def outputs_of(folder: Path, name: str, spare: Path | None = None) -> Path:
    """Assemble the outputs of a run from the records that exist now; an item without a record becomes a failure.

    Raises Waits when the items of the last stage are not known yet.
    """
    run = opened_run(folder, name)
    return assemble_or_spare(bound(run, pipeline_of(run)), outputs_path(folder, run), spare)[1]

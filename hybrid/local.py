"""`hybrid run local`: freeze a run, do its stages on this machine, put the outputs together."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from hybrid import plugins, settings
from hybrid.assembly import Assembly
from hybrid.backends.registry import digest_before_loading, open_backend
from hybrid.errors import Temporary, UsageError
from hybrid.folder.files import speaking
from hybrid.folder.runs import Run, join_folder, open_run, submit
from hybrid.outputs import write_outputs
from hybrid.progress import Observer
from hybrid.protocols import Backend, Pipeline
from hybrid.runner import StageResult, run_stage

DEFAULT_FOLDER = "hybrid-folder"
LOG = logging.getLogger("hybrid")


def chosen_folder(folder: Path | None) -> Path:
    """`--folder`, else HYBRID_FOLDER, else `hybrid-folder` here."""
    return folder or Path(os.environ.get("HYBRID_FOLDER") or DEFAULT_FOLDER)


def outputs_path(folder: Path, run: Run) -> Path:
    """Where a run's outputs.json is when nothing else is said: every run has its own."""
    return folder / "results" / run.id / "outputs.json"


@dataclass(frozen=True, slots=True)
class Engine:
    """Which backend runs which model. `options` are of this machine and shape no result, so no run is named by them."""

    backend: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)

    def open(self) -> Backend:
        return open_backend(self.backend, self.model, self.options)

    def digest(self) -> str:
        return digest_before_loading(self.backend, self.model)


@dataclass(frozen=True, slots=True)
class LocalResult:
    """A run done here: where its outputs are, their digest, and how its last stage stands."""

    run: Run
    outputs: Path
    sha256: str
    stage: StageResult


def freeze_run(folder: Path, name: str, pipeline: Pipeline, engine: Engine) -> Run:
    """Write the run into the folder, made when it is not there. The same settings, data and model are the same run.

    Whatever is wrong with settings, data or model is told before anything is written.
    """
    digest, frozen, inputs = engine.digest(), settings.freeze(pipeline), pipeline.inputs()
    join_folder(folder, make=True)
    return submit(
        folder,
        name,
        frozen,
        inputs,
        backend=engine.backend,
        model=engine.model,
        model_digest=digest,
    )


def do_run(
    run: Run,
    pipeline: Pipeline,
    engine: Engine,
    observer: Observer,
    outputs: Path,
    *,
    shard_seconds: float = 60.0,
    retry_failed: bool = False,
) -> LocalResult:
    """Do what is left of every stage and write outputs.json.

    The model is loaded only when an item is left to do. Raises NotFinished on Ctrl-C, Temporary when another process
    on this machine is at work on the run.
    """
    with alone(run), opened_late(engine) as backend:
        for stage in pipeline.stages():
            result = run_stage(
                run,
                stage,
                engine.digest(),
                backend,
                observer,
                shard_seconds=shard_seconds,
                retry_failed=retry_failed,
            )
        sha256, _ = assemble(run, stage.name, outputs)
    return LocalResult(run, outputs, sha256, result)


def assemble(run: Run, stage: str, path: Path) -> tuple[str, int]:
    """Write the union of a stage's records as outputs.json; returns its digest and how many records it holds."""
    with speaking(path, doing="making its folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with Assembly(run, stage) as assembly:
        spec = {**run.spec, "id": run.id}
        return write_outputs(path, spec, assembly.models, run.tasks(), assembly.outputs()), assembly.count


def find_outputs(source: str, folder: Path | None) -> str:
    """The outputs file that SOURCE means: a file, `-`, a folder that holds one, or a run, put together anew.

    A run is its id or the beginning of one in the chosen folder, its own folder, or a shared folder with one run.
    Raises UsageError when nothing of the kind is there.
    """
    path = Path(source)
    if source == "-" or path.is_file():
        return source
    if (path / "outputs.json").is_file():
        return str(path / "outputs.json")
    if (path / "run.json").is_file():
        return str(outputs_of(path.resolve().parent.parent, path.resolve().name))
    if (path / "hybrid.json").is_file():
        return str(outputs_of(path, ""))
    if not (chosen_folder(folder) / "hybrid.json").is_file():
        raise UsageError(
            f"there is no file '{source}', and no run: {chosen_folder(folder)} is not a folder of hybrid",
            hint="name an outputs.json, a .jsonl, a .jsonl.zst, - for standard input, or a run with its --folder",
        )
    return str(outputs_of(chosen_folder(folder), source))


def outputs_of(folder: Path, name: str) -> Path:
    """Put a run's outputs together as they are now; what is not there yet is told on the log."""
    run = open_run(join_folder(folder, make=False), name)
    pipeline: Any = settings.restore(plugins.load("pipelines", str(run.spec["pipeline"])), run.spec["settings"])
    stage = pipeline.stages()[-1]
    path = outputs_path(folder, run)
    _, there = assemble(run, stage.name, path)
    wanted = sum(1 for _ in stage.items(run.tasks()))
    if there < wanted:
        LOG.warning("%s: %d of %d items have a record; the others are not in %s", run.id, there, wanted, path)
    return path


@contextmanager
def opened_late(engine: Engine) -> Iterator[Callable[[], Backend]]:
    """A function that loads the model when it is first called; it is closed at the end."""
    with ExitStack() as stack:
        opened: list[Backend] = []

        def backend() -> Backend:
            if not opened:
                opened.append(engine.open())
                stack.callback(opened[0].close)
            return opened[0]

        yield backend


@contextmanager
def alone(run: Run) -> Iterator[None]:
    """Hold this machine's lock on a run. It saves double work; correctness does not need it, and a kill frees it."""
    locks = Path(platformdirs.user_cache_dir("hybrid", appauthor=False)) / "locks"
    name = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:32]
    with speaking(locks, doing="making the folder of locks"):
        locks.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(locks / f"{name}.lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise Temporary(
            f"another process on this machine is at work on {run.id}",
            hint="wait until it ends, then run the same command again: what it did is kept",
        ) from error

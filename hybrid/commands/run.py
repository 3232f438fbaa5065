"""`hybrid run local PIPELINE` and `hybrid run remote PIPELINE`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hybrid.commands.arms import with_arms
from hybrid.commands.failures import missed
from hybrid.commands.follow import follow
from hybrid.commands.options import OUTPUT_HELP, OUTPUTS, SHARD_SECONDS, Duration
from hybrid.commands.planning import DRY_RUN, plan_for_rent, plan_here, show_plan, tell_plan
from hybrid.commands.roles import engines, specs
from hybrid.commands.run_options import pipeline_with, with_run_options
from hybrid.commands.stdout import STDOUT, copy_to_stdout, refuse_both_on_stdout
from hybrid.errors import BadData
from hybrid.execution.chosen_model import Engine
from hybrid.execution.local import DEFAULT_FOLDER, Effort, LocalResult, chosen_folder, note_outputs, run_here
from hybrid.execution.roles import stages_of_run, stages_with
from hybrid.execution.sides import FIRST, asked_on, moved, parts, sides_given
from hybrid.folder.object_store import directory, medium_at
from hybrid.folder.runs import Run, join_folder
from hybrid.laptop.forgetting import checked_note, submitted
from hybrid.laptop.remote_runs import submit_remote
from hybrid.machine import home
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, count_of, was_or_were
from hybrid.outputs import stale_words
from hybrid.progress import ProgressBar, ProgressEvents, ProgressLines, SilentProgress
from hybrid.protocols import Side, Stage
from hybrid.status.next_command import model_options

MAX_LINE = 1000
LOG = logging.getLogger("hybrid")


@click.group()
def run() -> None:
    """Run a pipeline; the same command again continues where it stopped."""


@run.command("local")
@with_run_options
@click.option(
    "--backend-option", "options", multiple=True, metavar="NAME=VALUE",
    help="An option of the backend on this machine; not part of the run. For a further model: ROLE=NAME=VALUE.",
)  # fmt: skip
@DRY_RUN
@SHARD_SECONDS
@click.option("--retry-failed", is_flag=True, help="Repeat the items whose record is a failure.")
@click.option("-o", "--output", type=OUTPUTS, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print events on stdout, one JSON object per line.")
def local(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Run all of PIPELINE on this machine and write outputs.json."""
    how = with_arms(how)
    made = pipeline_with(pipeline, values, preset, how, limit=limit, seed=seed)
    models = engines(made, how)
    if how["dry_run"]:
        show_plan(plan_here(pipeline, made, models), as_json=how["as_json"])
        return
    _run_local(pipeline, made, models, LocalOptions(**{name: how[name] for name in LocalOptions.__slots__}))


@run.command("remote")
@with_run_options
@click.option(
    "--model-digest", "digests", multiple=True, metavar="HEX",
    help="Digest that the model files must have [those of the first worker]. For a further model: ROLE=HEX.",
)  # fmt: skip
@click.option(
    "--side-of", "sides", multiple=True, metavar="NAME=SIDE",
    help=f"gpu, laptop or any: who does a stage, or answers for a role ('{FIRST}': the first model) of a search.",
)  # fmt: skip
@DRY_RUN
@click.option("--wait", is_flag=True, help="Fetch and grade results as they arrive, until the run is done.")
@click.option("--timeout", type=Duration(), help="Longest time for --wait, such as 8h; then exit code 4.")
@click.option(
    "--every", type=Duration(low=1), default="30s", show_default=True, help="Time between two fetches for --wait."
)
@click.option("-o", "--output", type=OUTPUTS, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print events on stdout, one JSON object per line.")
def remote(
    pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any
) -> None:
    """Submit PIPELINE to the shared folder for workers. The same command again is the same run."""
    refuse_both_on_stdout(how["output"], as_json=how["as_json"])
    how = with_arms(how)
    made = pipeline_with(pipeline, values, preset, how, limit=limit, seed=seed)
    models = specs(made, how)
    if how["dry_run"]:
        show_plan(plan_for_rent(pipeline, made, engines(made, how)), as_json=how["as_json"])
        return
    sides = sides_given(how["sides"], stages_with(made, models))
    folder = chosen_folder(how["folder"])
    note = checked_note(how["note"])
    run = submit_remote(folder, pipeline, made, models, sides)
    submitted(folder, run, note)
    if not how["wait"]:
        tell_plan(pipeline, made, engines(made, how), as_json=how["as_json"])
        _report_submitted(run, moved(stages_of_run(run, made), sides), sides, folder, as_json=how["as_json"])
        return
    follow(run, folder, how["output"], how["every"], how["timeout"], how["as_json"])


def _report_submitted(
    run: Run, stages: Sequence[Stage], sides: Mapping[str, Side], folder: Path, *, as_json: bool
) -> None:
    if as_json:
        ProgressEvents(sys.stdout).emit({"event": "submitted", "run": run.id, "folder": home.shown(folder)})
        return
    if logging.getLogger().level < logging.ERROR:
        for line in _next_commands(run, stages, sides):
            click.echo(line, err=True)
    click.echo(run.id)


def _next_commands(run: Run, stages: Sequence[Stage], sides: Mapping[str, Side]) -> Iterator[str]:
    """The next commands for the run, on the GPU machine and on this one."""
    divided = [stage.name for stage in stages if parts(stage, sides)]
    models = [run.models[role] for role in asked_on(stages, ("gpu", "any"), sides) or [""]]
    server = ""
    if served := [one.name for one in models if one.backend == "ollama"]:
        yield from (f"the model, once:     hybrid models pack {name}" for name in served)
        restored = "".join(f"hybrid models restore {name} --folder FOLDER; " for name in served)
        server = f"{restored}hybrid ollama up -- "
    chosen = " --side gpu" if divided else ""
    yield f"on the GPU machine:  {server}hybrid worker FOLDER{chosen} --run {run.id}{model_options(models)}"
    yield f"or as a notebook:    hybrid notebook colab {run.id}"
    if divided or any(stage.side == "laptop" for stage in stages):
        models = [run.models[role] for role in asked_on(stages, ("laptop",), sides)]
        yield f"here, for its part:  hybrid worker --side laptop --run {run.id}{model_options(models)}"
    if divided:
        waits = f"each step of '{divided[0]}' waits until the folder was carried there and back"
        yield f"this is slow: {waits}, which is in no plan's time or money"
    yield f"here, as it goes on: hybrid status {run.id}; hybrid fetch {run.id}"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """The options of `run local` that do not define the run."""

    folder: Path | None
    shard_seconds: float
    retry_failed: bool
    note: str | None
    output: Path | None
    as_json: bool


def _run_local(name: str, pipeline: Any, models: Mapping[str, Engine], how: LocalOptions) -> None:
    refuse_both_on_stdout(how.output, as_json=how.as_json)
    interrupt_on_termination()  # SIGTERM and SIGHUP close the shard as Ctrl-C does
    folder = chosen_folder(how.folder)
    directory(medium_at(folder), "run is local: use `hybrid run remote` and `hybrid worker`")
    note, observer = checked_note(how.note), _progress(as_json=how.as_json)
    joined = None
    with suppress(BadData):  # a damaged file is told where it chooses the folder
        joined = home.joined_folder()
    is_joined = how.folder is None and not os.environ.get("HYBRID_FOLDER") and joined is not None
    if joined is not None and joined.absolute() == folder.absolute():
        join_folder(folder, make=False)  # it was there: where its mount is away, a new one would be hidden by it later
    makes_default = how.folder is None and str(folder) == DEFAULT_FOLDER and not folder.exists()

    def begins(run: Run) -> None:
        if makes_default:
            LOG.warning("the run and its results go into the new folder %s; --folder names another", folder.absolute())
        elif is_joined and type(observer) is not SilentProgress:
            where = f"{run.id} goes into the folder of `hybrid init`, {home.shown(folder)}; --folder names another"
            click.echo(clean_line(where, MAX_LINE), err=True)
        submitted(folder, run, note)

    result = run_here(
        folder,
        name,
        pipeline,
        models,
        observer,
        None if how.output == STDOUT else how.output,
        Effort(how.shard_seconds, how.retry_failed),
        begins,
    )
    note_outputs(folder, result.run, result.outputs)
    _report_result(result, observer, how)


def _progress(*, as_json: bool) -> SilentProgress:
    if as_json:
        return ProgressEvents(sys.stdout)
    if logging.getLogger().level >= logging.ERROR:
        return SilentProgress()
    return ProgressBar(Console(stderr=True)) if sys.stderr.isatty() else ProgressLines(sys.stderr)


def done_text(total: int, fresh: int) -> str:
    """How many of the `total` items were done now (`fresh`) and before, as a sentence."""
    if fresh:
        return f"{fresh:,} of {count_of(total, 'item')} done now, {total - fresh:,} kept from before"
    if not total:
        return "it has no items, nothing was run"
    items = f"{'all ' if total > 1 else 'its '}{count_of(total, 'item')}"
    return f"{items} {was_or_were(total)} done before, nothing was run"


def _report_result(result: LocalResult, observer: SilentProgress, how: LocalOptions) -> None:
    if type(observer) is not SilentProgress:
        for line in stale_words(result.outputs):
            click.echo(clean_line(line, MAX_LINE), err=True)
        click.echo(f"{result.run.id}: {done_text(result.total, result.fresh)}", err=True)
    if isinstance(observer, ProgressEvents):
        observer.emit({"event": "done", "run": result.run.id, "outputs": str(result.outputs), "sha256": result.sha256})
    elif how.output == STDOUT:
        copy_to_stdout(result.outputs)
    else:
        click.echo(result.outputs)
    if result.failed:
        again = "--retry-failed repeats them; grading counts failed outputs as failed, never as wrong"
        raise missed(result.run, result.stages, result.outputs, again)

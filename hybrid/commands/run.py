"""`hybrid run local PIPELINE` and `hybrid run remote PIPELINE`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hybrid import settings
from hybrid.commands.follow import follow
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, OUTPUT_HELP, Duration, FiniteRange
from hybrid.commands.roles import MODELS, engines, specs
from hybrid.commands.stdout import STDOUT, copy_to_stdout, refuse_both_on_stdout
from hybrid.errors import Missed
from hybrid.execution.local import Effort, Engine, LocalResult, chosen_folder, run_here
from hybrid.execution.roles import asked_on, stages_of_run
from hybrid.folder.runs import Run
from hybrid.folder.spec import ModelSpec
from hybrid.laptop.forgetting import checked_note, submitted
from hybrid.laptop.remote_runs import submit_remote
from hybrid.machine.signals import interrupt_on_termination
from hybrid.machine.terminal import clean_line, count_of, was_or_were
from hybrid.model_files.location import HUB_NAME, PACKAGED
from hybrid.outputs import stale_words
from hybrid.plugins import installed
from hybrid.progress import ProgressBar, ProgressEvents, ProgressLines, SilentProgress
from hybrid.protocols import Stage
from hybrid.status.text import failed_items

LONGEST = 1000


@click.group()
def run() -> None:
    """Run a pipeline; the same command again goes on where it stopped."""


OF_A_RUN = (
    click.argument("pipeline"),
    click.option("--folder", type=FOLDER, help=FOLDER_HELP),
    click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A setting; see `hybrid describe`."),
    click.option("--preset", default="", help="A named set of settings, such as 'paper'; --set goes on top."),
    *MODELS,
    click.option("--limit", type=int, help="Only the first N tasks: short for --set limit=N."),
    click.option("--seed", type=int, help="Short for --set seed=N."),
    click.option("--note", help="A line that `hybrid status` shows of the run; it is no part of what the run is."),
)
"""The options that name a run, wherever it is done."""


def of_a_run(command: Any) -> Any:
    for option in reversed(OF_A_RUN):
        command = option(command)
    return command


@run.command("local")
@of_a_run
@click.option(
    "--backend-option", "options", multiple=True, metavar="NAME=VALUE",
    help="Of this machine, not the run. Of a further model's backend: ROLE=NAME=VALUE.",
)  # fmt: skip
@click.option("--shard-seconds", type=FiniteRange(0.1, 3600), default=60, show_default=True, help="Longest loss.")
@click.option("--retry-failed", is_flag=True, help="Do items again whose record is a failure.")
@click.option("-o", "--output", type=OUTPUT, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def local(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Do all of PIPELINE on this machine: submit, run, assemble outputs.json."""
    made = _made(pipeline, values, preset, limit=limit, seed=seed)
    models = engines(made, how)
    _run(pipeline, made, models, How(**{name: how[name] for name in How.__slots__}))


def _made(pipeline: str, values: Iterable[str], preset: str, **short: int | None) -> Any:
    """The pipeline with its settings."""
    texts = [*values, *(f"{name}={value}" for name, value in short.items() if value is not None)]
    return settings.build(installed.load("pipelines", pipeline), texts, preset, pipeline)


@run.command("remote")
@of_a_run
@click.option(
    "--model-digest", "digests", multiple=True, metavar="HEX",
    help="Pin the model's files [those of the first worker]. Of a further model: ROLE=HEX.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Follow it: take over results as they arrive, grade, until it is done.")
@click.option("--timeout", type=Duration(), help="Longest wait, such as 8h; then leave with exit code 4.")
@click.option("--every", type=Duration(low=1), default="30s", show_default=True, help="Time between two looks.")
@click.option("-o", "--output", type=OUTPUT, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def remote(
    pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any
) -> None:
    """Put PIPELINE into the shared folder for a worker, and return. The same command again is the same run."""
    refuse_both_on_stdout(how["output"], as_json=how["as_json"])
    made = _made(pipeline, values, preset, limit=limit, seed=seed)
    models = specs(made, how)
    folder = chosen_folder(how["folder"])
    note = checked_note(how["note"])
    run = submit_remote(folder, pipeline, made, models)
    submitted(folder, run, note)
    if not how["wait"]:
        _tell_submitted(run, stages_of_run(run, made), folder, as_json=how["as_json"])
        return
    follow(run, folder, how["output"], how["every"], how["timeout"], how["as_json"])


def _tell_submitted(run: Run, stages: Sequence[Stage], folder: Path, *, as_json: bool) -> None:
    if as_json:
        ProgressEvents(sys.stdout).emit({"event": "submitted", "run": run.id, "folder": str(folder)})
        return
    if logging.getLogger().level < logging.ERROR:
        for line in _next_commands(run, stages):
            click.echo(line, err=True)
    click.echo(run.id)


def _next_commands(run: Run, stages: Sequence[Stage]) -> Iterator[str]:
    """What to type for the run, on the GPU machine and here."""
    models = [run.models[role] for role in asked_on(stages, ("gpu", "any")) or [""]]
    server = ""
    if served := [one.name for one in models if one.backend == "ollama"]:
        yield from (f"the model, once:     hybrid models pack {name}" for name in served)
        restored = "".join(f"hybrid models restore {name} --folder FOLDER; " for name in served)
        server = f"{restored}hybrid ollama up -- "
    yield f"on the GPU machine:  {server}hybrid worker FOLDER --run {run.id}{_places(models)}"
    yield f"or as a notebook:    hybrid notebook colab {run.id}"
    if any(stage.side == "laptop" for stage in stages):
        models = [run.models[role] for role in asked_on(stages, ("laptop",))]
        yield f"here, for its part:  hybrid worker --side laptop --run {run.id}{_places(models)}"
    yield f"here, as it goes on: hybrid status {run.id}; hybrid fetch {run.id}"


def _places(models: Sequence[ModelSpec]) -> str:
    """The options of `hybrid worker` that say where models are whose names say nothing to another machine."""
    named = [one.name for one in models if one.backend != "ollama"]
    unknown = [name for name in named if name not in PACKAGED and not HUB_NAME.fullmatch(name)]
    return "".join(f" --model {name}=PATH" for name in unknown)


@dataclass(frozen=True, slots=True)
class How:
    """The options that do not name the run: where and by what it is done."""

    folder: Path | None
    shard_seconds: float
    retry_failed: bool
    note: str | None
    output: Path | None
    as_json: bool


def _run(name: str, pipeline: Any, models: Mapping[str, Engine], how: How) -> None:
    refuse_both_on_stdout(how.output, as_json=how.as_json)
    interrupt_on_termination()  # they close the shard as Ctrl-C does
    folder = chosen_folder(how.folder)
    note, observer = checked_note(how.note), _observer(as_json=how.as_json)
    result = run_here(
        folder,
        name,
        pipeline,
        models,
        observer,
        None if how.output == STDOUT else how.output,
        Effort(how.shard_seconds, how.retry_failed),
        lambda run: submitted(folder, run, note),
    )
    _tell(result, observer, how)


def _observer(*, as_json: bool) -> SilentProgress:
    if as_json:
        return ProgressEvents(sys.stdout)
    if logging.getLogger().level >= logging.ERROR:
        return SilentProgress()
    return ProgressBar(Console(stderr=True)) if sys.stderr.isatty() else ProgressLines(sys.stderr)


def done_now(total: int, fresh: int) -> str:
    """What was done, in words: `fresh` of `total` items."""
    if fresh:
        return f"{fresh:,} of {count_of(total, 'item')} done now, {total - fresh:,} kept from before"
    if not total:
        return "it has no items, nothing was run"
    items = f"{'all ' if total > 1 else 'its '}{count_of(total, 'item')}"
    return f"{items} {was_or_were(total)} done before, nothing was run"


def _tell(result: LocalResult, observer: SilentProgress, how: How) -> None:
    if type(observer) is not SilentProgress:
        for line in stale_words(result.outputs):
            click.echo(clean_line(line, LONGEST), err=True)
        click.echo(f"{result.run.id}: {done_now(result.total, result.fresh)}", err=True)
    if isinstance(observer, ProgressEvents):
        observer.emit({"event": "done", "run": result.run.id, "outputs": str(result.outputs), "sha256": result.sha256})
    elif how.output == STDOUT:
        copy_to_stdout(result.outputs)
    else:
        click.echo(result.outputs)
    if result.failed:
        raise Missed(
            f"{failed_items(result.stages, result.run.id)}; the reasons are in {result.outputs}",
            hint="--retry-failed does them again; grading counts failed outputs as failed, never as wrong",
        )

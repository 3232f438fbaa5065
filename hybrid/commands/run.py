"""`hybrid run local PIPELINE` and `hybrid run remote PIPELINE`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hybrid import settings
from hybrid.backends.options import pairs
from hybrid.backends.registry import DEFAULT_BACKEND, DEFAULT_MODEL, SUMMARIES
from hybrid.commands.follow import follow
from hybrid.commands.judging import heed_polite_signals
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, OUTPUT_HELP, Duration, Finite
from hybrid.commands.stdout import STDOUT, refuse_two, to_stdout
from hybrid.errors import Missed, UsageError
from hybrid.execution.local import Effort, Engine, LocalResult, chosen_folder, run_here
from hybrid.folder.names import DIGEST
from hybrid.folder.runs import Run
from hybrid.laptop.forgetting import checked_note, submitted
from hybrid.laptop.remote_runs import submit_remote
from hybrid.machine.terminal import clean_line, some, were
from hybrid.model_files.location import HUB_NAME, PACKAGED
from hybrid.outputs import stale_words
from hybrid.plugins import installed
from hybrid.progress import Bar, Events, Lines, Quiet

LONGEST = 1000
BACKEND_HELP = "; ".join(f"{name}: {line}" for name, line in SUMMARIES.items())


@click.group()
def run() -> None:
    """Run a pipeline; the same command again goes on where it stopped."""


OF_A_RUN = (
    click.argument("pipeline"),
    click.option("--folder", type=FOLDER, help=FOLDER_HELP),
    click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A setting; see `hybrid describe`."),
    click.option("--preset", default="", help="A named set of settings, such as 'paper'; --set goes on top."),
    click.option("--backend", default=DEFAULT_BACKEND, show_default=True, help=BACKEND_HELP),
    click.option("--model", help=f"A file, a folder or a known name; of Ollama, its name. [{DEFAULT_MODEL}]"),
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
@click.option("--backend-option", "options", multiple=True, metavar="NAME=VALUE", help="Of this machine, not the run.")
@click.option("--shard-seconds", type=Finite(0.1, 3600), default=60, show_default=True, help="Longest loss.")
@click.option("--retry-failed", is_flag=True, help="Do items again whose record is a failure.")
@click.option("-o", "--output", type=OUTPUT, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def local(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Do all of PIPELINE on this machine: submit, run, assemble outputs.json."""
    _run(pipeline, _made(pipeline, values, preset, limit=limit, seed=seed), How(**how))


def _made(pipeline: str, values: Iterable[str], preset: str, **short: int | None) -> Any:
    """The pipeline with its settings."""
    texts = [*values, *(f"{name}={value}" for name, value in short.items() if value is not None)]
    return settings.build(installed.load("pipelines", pipeline), texts, preset, pipeline)


@run.command("remote")
@of_a_run
@click.option("--model-digest", default="", metavar="HEX", help="Pin the model's files [those of the first worker]")
@click.option("--wait", is_flag=True, help="Follow it: take over results as they arrive, grade, until it is done.")
@click.option("--timeout", type=Duration(), help="Longest wait, such as 8h; then leave with exit code 4.")
@click.option("--every", type=Duration(low=1), default="30s", show_default=True, help="Time between two looks.")
@click.option("-o", "--output", type=OUTPUT, help=OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def remote(
    pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any
) -> None:
    """Put PIPELINE into the shared folder for a worker, and return. The same command again is the same run."""
    refuse_two(how["output"], as_json=how["as_json"])
    made = _made(pipeline, values, preset, limit=limit, seed=seed)
    digest = str(how["model_digest"]).lower()
    if digest and not DIGEST.fullmatch(digest):
        raise UsageError(f"--model-digest: '{digest:.80}' is not a sha256 of 64 hex digits")
    folder = chosen_folder(how["folder"])
    note = checked_note(how["note"])
    run = submit_remote(folder, pipeline, made, how["backend"], _model(how["model"], how["backend"]), digest)
    submitted(folder, run, note)
    if not how["wait"]:
        _tell_submitted(run, folder, as_json=how["as_json"])
        return
    follow(run, folder, how["output"], how["every"], how["timeout"], how["as_json"])


def _model(named: str | None, backend: str) -> str:
    """The model that was named, else the default one, which a server does not have."""
    if named is not None and not named.strip():
        raise UsageError("--model is empty", hint="leave it out for the default one")
    if named is None and backend == "ollama":
        raise UsageError("no model is named", hint="--model NAME, one of those that `ollama list` shows")
    return DEFAULT_MODEL if named is None else named


def _tell_submitted(run: Run, folder: Path, *, as_json: bool) -> None:
    if as_json:
        Events(sys.stdout).emit({"event": "submitted", "run": run.id, "folder": str(folder)})
        return
    if logging.getLogger().level < logging.ERROR:
        model = str(run.spec["model"])
        known = run.spec["backend"] == "ollama" or model in PACKAGED or HUB_NAME.fullmatch(model)
        where = "" if known else f" --model {model}=PATH"
        server = ""
        if run.spec["backend"] == "ollama":
            click.echo(f"the model, once:     hybrid models pack {model}", err=True)
            server = f"hybrid models restore {model} --folder FOLDER; hybrid ollama up -- "
        click.echo(f"on the GPU machine:  {server}hybrid worker FOLDER --run {run.id}{where}", err=True)
        click.echo(f"or as a notebook:    hybrid notebook colab {run.id}", err=True)
        click.echo(f"here, as it goes on: hybrid status {run.id}; hybrid fetch {run.id}", err=True)
    click.echo(run.id)


@dataclass(frozen=True, slots=True)
class How:
    """The options that do not name the run: where and by what it is done."""

    folder: Path | None
    backend: str
    model: str | None
    options: tuple[str, ...]
    shard_seconds: float
    retry_failed: bool
    note: str | None
    output: Path | None
    as_json: bool


def _run(name: str, pipeline: Any, how: How) -> None:
    refuse_two(how.output, as_json=how.as_json)
    heed_polite_signals()  # they close the shard as Ctrl-C does
    engine = Engine(how.backend, _model(how.model, how.backend), dict(pairs("--backend-option", how.options)))
    folder = chosen_folder(how.folder)
    note, observer = checked_note(how.note), _observer(as_json=how.as_json)
    result = run_here(
        folder,
        name,
        pipeline,
        engine,
        observer,
        None if how.output == STDOUT else how.output,
        Effort(how.shard_seconds, how.retry_failed),
        lambda run: submitted(folder, run, note),
    )
    _tell(result, observer, how)


def _observer(*, as_json: bool) -> Quiet:
    if as_json:
        return Events(sys.stdout)
    if logging.getLogger().level >= logging.ERROR:
        return Quiet()
    return Bar(Console(stderr=True)) if sys.stderr.isatty() else Lines(sys.stderr)


def done_now(total: int, fresh: int) -> str:
    """What was done, in words: `fresh` of `total` items."""
    if fresh:
        return f"{fresh:,} of {some(total, 'item')} done now, {total - fresh:,} kept from before"
    if not total:
        return "it has no items, nothing was run"
    return f"{'all ' if total > 1 else 'its '}{some(total, 'item')} {were(total)} done before, nothing was run"


def _tell(result: LocalResult, observer: Quiet, how: How) -> None:
    if type(observer) is not Quiet:
        for line in stale_words(result.outputs):
            click.echo(clean_line(line, LONGEST), err=True)
        click.echo(f"{result.run.id}: {done_now(result.total, result.fresh)}", err=True)
    if isinstance(observer, Events):
        observer.emit({"event": "done", "run": result.run.id, "outputs": str(result.outputs), "sha256": result.sha256})
    elif how.output == STDOUT:
        to_stdout(result.outputs)
    else:
        click.echo(result.outputs)
    if result.failed:
        failed = f"{result.failed:,} of {some(result.total, 'item')} of {result.run.id}"
        raise Missed(
            f"{failed} failed; the reasons are in {result.outputs}",
            hint="--retry-failed does them again; grading counts them as failed, never as wrong",
        )

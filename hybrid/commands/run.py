"""`hybrid run local PIPELINE`."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hybrid import plugins, settings
from hybrid.backends.registry import DEFAULT_BACKEND, DEFAULT_MODEL, SUMMARIES
from hybrid.commands.options import Finite
from hybrid.errors import Missed, UsageError
from hybrid.local import Engine, LocalResult, chosen_folder, do_run, freeze_run, outputs_path
from hybrid.progress import Bar, Events, Lines, Quiet

FOLDER = click.Path(path_type=Path, readable=False)  # whether it can be read is told by us, with the right exit code
BACKEND_HELP = "; ".join(f"{name}: {line}" for name, line in SUMMARIES.items())


@click.group()
def run() -> None:
    """Run a pipeline; the same command again goes on where it stopped."""


@run.command("local")
@click.argument("pipeline")
@click.option("--folder", type=FOLDER, help="Where runs are [HYBRID_FOLDER, hybrid-folder]")
@click.option("--set", "values", multiple=True, metavar="NAME=VALUE", help="A setting; see `hybrid describe PIPELINE`.")
@click.option("--preset", default="", help="A named set of settings, such as 'paper'; --set goes on top.")
@click.option("--backend", default=DEFAULT_BACKEND, show_default=True, help=BACKEND_HELP)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A file, a folder or a name the backend knows.")
@click.option("--backend-option", "options", multiple=True, metavar="NAME=VALUE", help="Of this machine, not the run.")
@click.option("--limit", type=int, help="Only the first N tasks: short for --set limit=N.")
@click.option("--seed", type=int, help="Short for --set seed=N.")
@click.option("--shard-seconds", type=Finite(0.1, 3600), default=60, show_default=True, help="Longest loss.")
@click.option("--retry-failed", is_flag=True, help="Do items again whose record is a failure.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="outputs.json [FOLDER/results/RUN/outputs.json]",
)
@click.option("--json", "as_json", is_flag=True, help="Events on stdout, one JSON object a line.")
def local(pipeline: str, values: tuple[str, ...], preset: str, limit: int | None, seed: int | None, **how: Any) -> None:
    """Do all of PIPELINE on this machine: submit, run, assemble outputs.json."""
    short = {"limit": limit, "seed": seed}
    texts = [*values, *(f"{name}={value}" for name, value in short.items() if value is not None)]
    made = settings.build(plugins.load("pipelines", pipeline), texts, preset)
    _run(pipeline, made, How(**how))


@dataclass(frozen=True, slots=True)
class How:
    """The options that do not name the run: where and by what it is done."""

    folder: Path | None
    backend: str
    model: str
    options: tuple[str, ...]
    shard_seconds: float
    retry_failed: bool
    output: Path | None
    as_json: bool


def _run(name: str, pipeline: Any, how: How) -> None:
    for polite in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP
        signal.signal(polite, signal.default_int_handler)  # closes the shard as Ctrl-C does
    engine = Engine(how.backend, how.model, dict(_pairs(how.options)))
    folder = chosen_folder(how.folder)
    run = freeze_run(folder, name, pipeline, engine)
    observer = _observer(as_json=how.as_json)
    result = do_run(
        run,
        pipeline,
        engine,
        observer,
        how.output or outputs_path(folder, run),
        shard_seconds=how.shard_seconds,
        retry_failed=how.retry_failed,
    )
    _tell(result, observer)


def _pairs(options: Iterable[str]) -> Iterable[tuple[str, str]]:
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UsageError(f"a backend option is written name=value, got '{option}'")
        yield name, value


def _observer(*, as_json: bool) -> Quiet:
    if as_json:
        return Events(sys.stdout)
    if logging.getLogger().level >= logging.ERROR:
        return Quiet()
    return Bar(Console(stderr=True)) if sys.stderr.isatty() else Lines(sys.stderr)


def _tell(result: LocalResult, observer: Quiet) -> None:
    total, fresh = result.total, result.fresh
    now = f"{fresh} of {total} items done now, {total - fresh} kept from before"
    before = f"all {total} items were done before, nothing was run"
    if type(observer) is not Quiet:
        click.echo(f"{result.run.id}: {now if fresh else before}", err=True)
    if isinstance(observer, Events):
        observer.emit({"event": "done", "run": result.run.id, "outputs": str(result.outputs), "sha256": result.sha256})
    else:
        click.echo(result.outputs)
    if result.failed:
        raise Missed(
            f"{result.failed} of {total} items of {result.run.id} failed; the reasons are in {result.outputs}",
            hint="--retry-failed does them again; grading counts them as failed, never as wrong",
        )

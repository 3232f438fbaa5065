"""`hybrid try`: what a loop has learned so far, with the newest state that it kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, NonEmptyText
from hybrid.errors import BadData, NotFinished, UsageError, listed, nearest
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.kept_states import KeptStates
from hybrid.execution.local import chosen_folder, opened_run
from hybrid.execution.loop_state import state_name
from hybrid.execution.roles import stages_of_run
from hybrid.folder.medium import Disk
from hybrid.folder.names import new_attempt
from hybrid.folder.runs import Run
from hybrid.folder.tensors import RunTensors
from hybrid.loops import Series, Tried, TriesStates
from hybrid.machine import home
from hybrid.machine.late_imports import import_object
from hybrid.machine.terminal import clean_line
from hybrid.plugins.faults import attributed_to, checked
from hybrid.protocols import Pipeline, Stage
from hybrid.work import Rounds

LONGEST_PROMPT = 10_000
MAX_LINE = 3000


@click.command("try")
@click.argument("run", type=NonEmptyText())
@click.option("--series", type=NonEmptyText(), help="Which series, when there are several: cvfp/seed-0.")
@click.option("--prompt", default="", help="What the model goes on from. [something of the run's own]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
def trial(run: str, series: str | None, prompt: str, as_json: bool, folder: Path | None) -> None:
    """Try what a loop of RUN has learned so far: measures on a sample, and what it makes of a prompt.

    It reads the newest state that a worker has kept in the folder, whether the run goes on or is over, and computes on
    this machine's processor. Nothing of the run is changed.
    """
    _check_prompt(prompt)
    place = chosen_folder(folder)
    named = opened_run(place, run)
    pipeline = pipeline_of(named)
    if not isinstance(pipeline, TriesStates):
        raise UsageError(f"{named.id}: the pipeline {named.spec['pipeline']} has no states that can be tried")
    stage, tasks = _stage(named, pipeline), named.tasks()
    chosen = _chosen(named, stage, tasks, series)

    def try_it(state: bytes) -> Tried:
        lab = import_object("hybrid.backends.no_model:NoModel", needed_for="hybrid try")("none", {"device": "cpu"})
        with attributed_to(pipeline, f"trying {chosen.name}"):
            made: Tried = checked(pipeline.try_state(tasks, chosen, state, lab, prompt), Tried)
        return made

    number, made = _newest_tried(place, named, stage, chosen, try_it)
    _show(chosen, number, made, as_json=as_json)


def _check_prompt(prompt: str) -> None:
    """Raises UsageError for one that is too long, or whose bytes were not UTF-8."""
    if len(prompt) > LONGEST_PROMPT:
        raise UsageError(f"a prompt of {len(prompt):,} characters; {LONGEST_PROMPT:,} are the most")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        where = f"the prompt is not UTF-8 from character {error.start + 1} on"
        raise UsageError(where, hint="`locale` shows whether this terminal writes UTF-8") from None


def _stage(run: Run, pipeline: Pipeline) -> Stage:
    """The last stage of rounds. Raises UsageError."""
    found = [one for one in stages_of_run(run, pipeline) if isinstance(one.work, Rounds)]
    if not found:
        raise UsageError(f"{run.id} has no stage of rounds")
    return found[-1]


def _chosen(run: Run, stage: Stage, tasks: Any, name: str | None) -> Series:
    """The series of that name, or the only one. Raises UsageError."""
    found = {one.name: one for one in stage.work.series(tasks)}  # type: ignore[union-attr]
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None:
        raise UsageError(f"there are {len(found)} series; name one with --series", hint=listed(found))
    if name not in found:
        raise UsageError(f"{run.id} has no series {name!r:.60}", hint=nearest(name, found))
    return found[name]


def _newest_tried(
    folder: Path, run: Run, stage: Stage, series: Series, try_it: Callable[[bytes], Tried]
) -> tuple[int, Tried]:
    """How many rounds the newest state has that can be tried, and what was made of it. A worker, too, goes on from it.

    Raises NotFinished when there is no state that can be read, BadData when all of them are refused.
    """
    media = run.sources or (run.folder,)
    tensors = RunTensors(run.id, new_attempt(), Disk(home.spool_of(folder)), media)
    name = state_name(stage.identity, run.model_digest(stage.name), series)
    states, refused = KeptStates(tensors, name, series.rounds), None
    for version, state in states.newest_first():
        try:
            return version.number, try_it(state.data)
        except BadData as error:
            states.refuse(version, error)
            refused = error
    raise refused or NotFinished(
        f"no state of {series.name} of {run.id} is here yet",
        hint=f"workers keep one now and then; `hybrid status {run.id}` tells how far they are",
    )


def _show(series: Series, number: int, made: Tried, *, as_json: bool) -> None:
    if as_json:
        whole = {"series": series.name, "rounds": number, "of": series.rounds, "tried": made.value}
        click.echo(encode(whole))
        return
    click.echo(clean_line(f"{series.name} after {number:,} of {series.rounds:,} rounds", MAX_LINE))
    for line in made.lines:
        click.echo(clean_line(line, MAX_LINE))

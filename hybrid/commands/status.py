"""`hybrid status`: what is done, what is safe where, who works on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, NonEmptyText, seconds_of
from hybrid.commands.watch import watch_on_screen
from hybrid.commands.watch_screen import Look
from hybrid.errors import BadData, Temporary, UsageError
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import chosen_folder
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
from hybrid.folder.runs import check_mark, open_run
from hybrid.laptop.forgetting import forgotten_here
from hybrid.machine import home
from hybrid.machine.terminal import clean_line
from hybrid.outputs import stale_words
from hybrid.status.differences import differences
from hybrid.status.planned import Planner
from hybrid.status.run_status import RunStatus, read_statuses
from hybrid.status.text import detail_lines, summary_line, titled_lines

MAX_LINE = 1000
CALL_SECONDS = 30.0
"""Most seconds for one call to the folder."""
WATCH_SECONDS = 10.0
"""Seconds between two readings for --watch."""
MIN_WATCH_SECONDS = 1.0
MANY_RECORDS = 100_000
"""New records from which on a message says that reading them takes a while."""

ReadRuns = Callable[[], list[RunStatus]]


@click.command()
@click.argument("run", required=False, type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--all", "also_forgotten", is_flag=True, help="Include forgotten runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=f"{WATCH_SECONDS:.0f}s",
    help="Repeat until all is done.",
)
def status(run: str | None, folder: Path | None, also_forgotten: bool, as_json: bool, watch: str | None) -> int:
    """Show the status of RUN, or of every run of the folder on one line each.

    It shows the items that are done, at which of three levels they are safe (received here, in the folder, only on a
    GPU machine), the workers, the model, and the settings in which runs of one pipeline differ. Exit code 0: all is
    done (without RUN, also cancelled); 3: items failed; 4: not finished; 5: the folder is unavailable; 6: damaged.
    """
    run, every = _interval(run, watch)
    place = chosen_folder(folder)
    with closing(IsolatedFolder(place, seconds=CALL_SECONDS)) as isolated:
        read = _reader(place, isolated, run, also_forgotten=also_forgotten)
        if every is None:
            _show(place, runs := read(), run, as_json=as_json)
            return _exit_code(runs, run)
        if as_json or not _has_screen():
            return _repeat(place, read, run, every, as_json=as_json)
        return _watch(place, read, run, every)


def _interval(run: str | None, watch: str | None) -> tuple[str | None, float | None]:
    """The run and the seconds between two readings. For `--watch RUN`, click takes RUN as the value of --watch."""
    if watch is None:
        return run, None
    seconds = seconds_of(watch)
    if seconds is not None and seconds < MIN_WATCH_SECONDS:
        raise UsageError(
            f"--watch {watch:.80} is too short", hint=f"at least {MIN_WATCH_SECONDS:.0f}s between two readings"
        )
    if seconds is not None:
        return run, seconds
    if run is not None:
        raise UsageError(f"--watch: '{watch:.80}' is not a time such as 10s or 2m")
    return watch, WATCH_SECONDS


def _has_screen() -> bool:
    """Whether standard output is a terminal that can be drawn on, unlike one of an editor or a log (TERM=dumb)."""
    return sys.stdout.isatty() and not Console().is_dumb_terminal


def _reader(place: Path, folder: IsolatedFolder, run: str | None, *, also_forgotten: bool) -> ReadRuns:
    store, path, planner = Disk(home.received_of(place)), home.index_of(place), Planner()

    def with_plan(one: RunStatus) -> RunStatus:
        if one.error or not run:
            return one
        return replace(one, planned=planner.of(open_run(folder, one.id, (store,)), one.attempts))

    def work(index: Index) -> list[RunStatus]:
        hidden = set[str]() if also_forgotten else forgotten_here(place)
        found = list(read_statuses(folder, store, index, run, _tell, hidden))
        return [with_plan(one) for one in found if run or also_forgotten or not one.forgotten]

    def read() -> list[RunStatus]:
        check_mark(folder)
        return with_index(path, work)

    return read


def _tell(records: int) -> None:
    if records >= MANY_RECORDS:
        click.echo(f"reading {records:,} new records; they are indexed, so the next time is fast", err=True)


def _exit_code(runs: Sequence[RunStatus], run: str | None) -> int:
    """The highest of the runs' codes. Without a named run, cancelled runs that are not done are left out."""
    waited_for = [one for one in runs if run or one.done or not one.cancelled]
    return max((one.exit_code for one in waited_for), default=0)


def _differing(runs: Sequence[RunStatus]) -> Mapping[str, Sequence[str]]:
    return differences({one.id: one.spec for one in runs if one.spec})


def _stale(place: Path, run: RunStatus) -> list[str]:
    """What is said of grades that belong to other outputs of a run."""
    return list(stale_words(place / "results" / run.id / "outputs.json"))


def _show(place: Path, runs: Sequence[RunStatus], run: str | None, *, as_json: bool) -> None:
    differing = _differing(runs)
    for one in runs:
        if as_json:
            click.echo(encode(one.to_json()))
        elif not run:
            click.echo(summary_line(one, differing.get(one.id, ())))
        else:
            for text in (*detail_lines(one), *titled_lines("grades", _stale(place, one))):
                click.echo(text)
    if not run and not as_json and any(one.stopped for one in runs):
        click.echo("`hybrid status RUN` shows the command that goes on with a stopped run", err=True)
    if not runs and not as_json:
        click.echo("there is no run in the folder yet, or all were forgotten (--all)")


def _watch(place: Path, read: ReadRuns, run: str | None, every: float) -> int:
    """A page on the terminal until all runs have ended, `q` or Ctrl-C; then its last state stays there as text."""

    def look() -> Look:
        runs = read()
        stale = [text for one in runs if run for text in _stale(place, one)]
        return Look(runs, named=bool(run), differences=_differing(runs), stale=stale)

    reader = watch_on_screen(Console(), look, every, f"hybrid status  {run or place}")
    if reader.problem:
        click.echo(reader.problem, err=True)
    if reader.look is None:
        return reader.code
    _show(place, reader.look.runs, run, as_json=False)
    return reader.code if reader.problem else _exit_code(reader.look.runs, run)


def _repeat(place: Path, read: ReadRuns, run: str | None, every: float, *, as_json: bool) -> int:
    """Print the runs repeatedly until all have ended; Ctrl-C ends it with the exit code of the last reading."""
    code = Temporary.exit_code
    try:
        while True:
            try:
                code = _exit_code(runs := read(), run)
                _show(place, runs, run, as_json=as_json)
                if all(one.over for one in runs):
                    return code
            except (BadData, Temporary) as error:
                code = error.exit_code
                click.echo(clean_line(f"waiting: {error.message}", MAX_LINE), err=True)
            time.sleep(every)
    except KeyboardInterrupt:
        return code

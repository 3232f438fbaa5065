"""`hybrid logs`: the log lines of a run's workers, now or as they arrive."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import click

from hybrid.commands.options import FOLDER, FOLDER_HELP, NonEmptyText
from hybrid.errors import BadData, NotFinished, Temporary
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import chosen_folder
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
from hybrid.folder.runs import check_mark, open_run
from hybrid.machine import home
from hybrid.machine.terminal import clean_line
from hybrid.status.log_lines import LogLines
from hybrid.status.run_status import RunStatus, read_statuses

MAX_LINE = 1000
CALL_SECONDS = 30.0
"""Most seconds for one call to the folder."""
FOLLOW_SECONDS = 10.0
"""Seconds between two looks."""
LAST_SECONDS = 120.0
"""Most seconds for which the last lines of a finished run are waited for, while a worker seems to be running."""


@click.command()
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("-f", "--follow", is_flag=True, help="Continue until the run is over, or Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(1), help="Only the last N lines of each attempt that are there now.")
def logs(run: str, folder: Path | None, follow: bool, lines: int | None) -> int:
    """Show the logs of the workers of RUN, each line with its attempt. They arrive about once a minute.

    With --follow the exit code is that of `hybrid status RUN`: 0 done, 3 items failed, 4 not finished or cancelled.
    """
    place = chosen_folder(folder)
    with closing(IsolatedFolder(place, seconds=CALL_SECONDS)) as isolated:
        check_mark(isolated)
        name = open_run(isolated, run).id
        if follow:
            return _follow(place, isolated, name, lines)
        if not _show(LogLines(name).read(isolated), lines):
            raise NotFinished(f"no log of a worker of {name} has arrived yet", hint="`hybrid status` shows the workers")
    return 0


def _show(found: dict[str, list[str]], last: int | None) -> int:
    """Print lines by attempt. Returns their number."""
    for attempt, lines in found.items():
        for line in lines[-last:] if last else lines:
            click.echo(clean_line(f"{attempt} {line}", MAX_LINE))
    return sum(map(len, found.values()))


def _follow(place: Path, folder: IsolatedFolder, run: str, last: int | None) -> int:
    """Print new lines until the run is over; the exit code of its status. Waits while the folder is unavailable."""
    reader, code, waiting = LogLines(run), NotFinished.exit_code, ""
    over_since: float | None = None
    try:
        while True:
            try:
                status = _status(place, folder, run)  # before the lines: those of its last moment are shown
                code = status.exit_code
                _show(reader.read(folder), last)
                waiting, last = "", None
                over_since = (over_since or time.monotonic()) if status.over else None
                if over_since and (not status.at_work or time.monotonic() - over_since > LAST_SECONDS):
                    return code
            except (BadData, Temporary) as error:
                code = error.exit_code
                if error.message != waiting:
                    click.echo(clean_line(f"waiting: {error.message}", MAX_LINE), err=True)
                waiting = error.message
            time.sleep(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        return code


def _status(place: Path, folder: IsolatedFolder, run: str) -> RunStatus:
    store = Disk(home.received_of(place))

    def work(index: Index) -> RunStatus:
        return next(iter(read_statuses(folder, store, index, run)))

    return with_index(home.index_of(place), work)

"""`hybrid report`: one self-contained HTML page of one or more runs."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import click

from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, NonEmptyText
from hybrid.commands.stdout import STDOUT, writable_path
from hybrid.errors import HybridError, OwnFault, PluginFault, Waits
from hybrid.execution.local import chosen_folder, find_outputs, opened_run
from hybrid.machine.files import explain_errors
from hybrid.machine.terminal import clean_line
from hybrid.report.page import LONGEST_TEXT, MOST_TASKS, write_report
from hybrid.report.sources import ReportRun, find_source
from hybrid.report.unfinished import unfinished_run

LOG = logging.getLogger("hybrid")


@click.command()
@click.argument("sources", metavar="FILE...", type=NonEmptyText(), nargs=-1, required=True)
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option(
    "-o",
    "--out",
    type=OUTPUT,
    help="The page, - for standard output. Default: report.html beside the first FILE.",
)
@click.option("--grader", default="", metavar="NAME", help="Whose grades, when outputs were graded more than once.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=MOST_TASKS, show_default=True, help="Draw at most this many tasks."
)
@click.option(
    "--text",
    type=click.IntRange(min=0),
    default=LONGEST_TEXT,
    show_default=True,
    help="Characters shown of one model text.",
)
def report(sources: tuple[str, ...], folder: Path | None, out: Path | None, grader: str, limit: int, text: int) -> None:
    """Draw one HTML page of runs: each FILE is an outputs file, a run, or a grades.json.

    What nobody graded is drawn without scores, a run that is not finished as it stands. Several files are compared with
    the first, question by question. The page needs no network; its place is printed.
    """
    faults: list[HybridError] = []
    with ExitStack() as stack:
        runs = [_found(name, folder, grader, stack) for name in sources]
        path = out or _beside(runs[0])
        with writable_path(path) as there:
            write_report(runs, there, tasks=limit, text=text, tell=faults.append)
    if path != STDOUT:
        click.echo(path)
    if faults:
        _tell(path, faults)


def _found(name: str, folder: Path | None, grader: str, stack: ExitStack) -> ReportRun:
    """The run that FILE means; one whose last stage waits for earlier ones as it stands now."""
    try:
        return find_source(Path(find_outputs(name, folder)), grader)
    except Waits:
        if grader:
            raise
    path, here = Path(name), chosen_folder(folder)
    if (path / "run.json").is_file():
        here, name = path.resolve().parent.parent, path.resolve().name
    elif (path / "hybrid.json").is_file():
        here, name = path, ""
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-report-"))
    return unfinished_run(opened_run(here, name), here, Path(place))


def _beside(run: ReportRun) -> Path:
    """Where the page is when nothing else is said."""
    if run.unfinished and run.folder:
        place = run.folder / "results" / str(run.outputs.run["id"])
        with explain_errors(place, doing="making it"):
            place.mkdir(parents=True, exist_ok=True)
        return place / "report.html"
    return (run.grades or run.outputs).path.with_name("report.html")


def _tell(path: Path, faults: list[HybridError]) -> NoReturn:
    """Say which parts the page lacks, and whose fault that is. Raises OwnFault, PluginFault."""
    for fault in faults[1:]:
        LOG.warning("%s", clean_line(fault.message, 500))
    first = faults[0]
    kind = OwnFault if isinstance(first, OwnFault) else PluginFault
    raise kind(f"{path} is written, but a part of it is missing: {first.message}", hint=first.hint) from first

"""`hybrid report`: one self-contained HTML page of one or more graded runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

import click

from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, Word
from hybrid.commands.stdout import STDOUT, place_of
from hybrid.errors import HybridError, OwnFault, PluginFault
from hybrid.execution.local import find_outputs
from hybrid.machine.terminal import clean_line
from hybrid.report.page import LONGEST_TEXT, MOST_TASKS, write_report
from hybrid.report.sources import find_source

LOG = logging.getLogger("hybrid")


@click.command()
@click.argument("sources", metavar="FILE...", type=Word(), nargs=-1, required=True)
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
    """Draw one HTML page of runs: each FILE is an outputs file or a run's folder with its grades in it, or a
    grades.json.

    Several files are compared with the first, question by question. The page needs no network and prints its place.
    """
    runs = [find_source(Path(find_outputs(name, folder)), grader) for name in sources]
    path = out or (runs[0].grades or runs[0].outputs).path.with_name("report.html")
    faults: list[HybridError] = []
    with place_of(path) as there:
        write_report(runs, there, tasks=limit, text=text, tell=faults.append)
    if path != STDOUT:
        click.echo(path)
    if faults:
        _tell(path, faults)


def _tell(path: Path, faults: list[HybridError]) -> NoReturn:
    """Say which parts the page lacks, and whose fault that is. Raises OwnFault, PluginFault."""
    for fault in faults[1:]:
        LOG.warning("%s", clean_line(fault.message, 500))
    first = faults[0]
    kind = OwnFault if isinstance(first, OwnFault) else PluginFault
    raise kind(f"{path} is written, but a part of it is missing: {first.message}", hint=first.hint) from first

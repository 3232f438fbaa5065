"""`hybrid export`: a run in the format of another tool."""

from __future__ import annotations

from pathlib import Path

import click

from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, NonEmptyText
from hybrid.commands.stdout import STDOUT, spare_path, writable_path
from hybrid.errors import NotFinished, UsageError, Waits
from hybrid.execution.assembly import MISSING
from hybrid.execution.local import find_outputs_so_far
from hybrid.export import formats
from hybrid.export.formats import FORMATS
from hybrid.export.graded_run import GradedRun, read_run
from hybrid.formats import ImportedOutputs, told
from hybrid.machine.terminal import clean_line, count_of, is_or_are

MAX_LINE = 1000


@click.command()
@click.argument("source", type=NonEmptyText())
@click.option("--to", "name", type=click.Choice(list(FORMATS)), required=True, help="The format.")
@click.option(
    "-o", "--out", type=OUTPUT, help="The file, - for standard output. Default: beside the outputs, named after them."
)
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--grader", default="", metavar="NAME", help="Take the grades of this grader, when there are several.")
@click.option("-f", "--force", is_flag=True, help="Overwrite a file that has other content.")
def export(source: str, name: str, out: Path | None, folder: Path | None, grader: str, force: bool) -> None:
    """Write SOURCE, an outputs file or a run, in the format of another tool, with its grades where there are any.

    SOURCE may be a file of another tool, too, which is so converted. The path is printed. What a format cannot hold is
    said.
    """
    if source == "-":
        raise UsageError("export reads a file or a run, not standard input", hint="name an outputs.json")
    if out == STDOUT and FORMATS[name].folder:
        raise UsageError(f"{name} is a folder of several files", hint="name one with -o")
    with spare_path() as spare:
        outputs, waits = find_outputs_so_far(source, folder, spare if out else None)
        run = read_run(outputs, grader=grader, folder=folder, graded=FORMATS[name].one)
        path = out or formats.default_path(run, name)
        with writable_path(path) as place:
            notes = formats.export(run, name, place, replace=force)
        lacks = _lacking(run, waits) if FORMATS[name].answers else ""
    if path != STDOUT:
        click.echo(path)
    for note in (*notes, *told(run.outputs)):
        click.echo(clean_line(note, MAX_LINE), err=True)
    if lacks:
        raise NotFinished(lacks, hint="export it again when the rest is there")


def _lacking(run: GradedRun, waits: Waits | None) -> str:
    """How many records of a run, or of another tool's file, are missing, or for what its last stage `waits`; "" when
    nothing is missing, or that is not known.
    """
    if isinstance(run.outputs, ImportedOutputs) and run.sums.outputs and run.outputs.lacks:
        return f"{run.outputs.path} is not whole: {run.outputs.lacks}"
    missing = run.sums.failed[MISSING.kind]
    if not missing or not run.outputs.run.get("id"):
        return waits.message if waits else ""
    of_all = f"{missing:,} of {count_of(run.sums.outputs, 'output')} {is_or_are(missing)} missing"
    return f"{run.id:.120} is not finished: {of_all}"

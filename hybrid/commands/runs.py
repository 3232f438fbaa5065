"""`hybrid runs`: what came of the runs of a folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP
from hybrid.errors import BadData
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import chosen_folder
from hybrid.folder.child import IsolatedFolder
from hybrid.folder.medium import Disk
from hybrid.folder.runs import check_mark
from hybrid.laptop.forgetting import forgotten_here
from hybrid.machine import home
from hybrid.status.run_results import RunResult, newest_first, result_of
from hybrid.status.run_status import read_statuses

CALL_SECONDS = 30.0
"""Most seconds for one call to the folder."""


@click.command()
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--all", "also_forgotten", is_flag=True, help="Include forgotten runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per run.")
def runs(folder: Path | None, also_forgotten: bool, as_json: bool) -> int:
    """List the runs of the folder, the last begun first: model, items, scores, when, and where the outputs are.

    Scores are those of the grades beside the outputs. Exit code 0, also while runs are unfinished; 5: the folder is
    unavailable; 6: a run is damaged. `hybrid status` shows who works on what, and where results are safe.
    """
    place = chosen_folder(folder)
    with closing(IsolatedFolder(place, seconds=CALL_SECONDS)) as isolated:
        check_mark(isolated)
        results = newest_first(_results(place, isolated, also_forgotten=also_forgotten))
    rows = [one.cells() for one in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for result, row in zip(results, rows, strict=True):
        padded = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(encode(result.to_json()) if as_json else padded.rstrip())
    if not results and not as_json:
        click.echo("there is no run in the folder yet, or all were forgotten (--all)", err=True)
    return BadData.exit_code if any(one.status.error for one in results) else 0


def _results(place: Path, folder: IsolatedFolder, *, also_forgotten: bool) -> list[RunResult]:
    store = Disk(home.received_of(place))
    hidden = set[str]() if also_forgotten else forgotten_here(place)

    def work(index: Index) -> list[RunResult]:
        found = read_statuses(folder, store, index, None, hidden=hidden)
        shown = [one for one in found if also_forgotten or not one.forgotten]
        return [result_of(one, folder, _places(place, one.id)) for one in shown]

    return with_index(home.index_of(place), work)


def _places(folder: Path, run: str) -> list[Path]:
    """Where the outputs of a run may be: at their usual place, and where `-o` put them."""
    usual, named = folder / "results" / run / "outputs.json", home.outputs_noted(folder, run)
    return [usual, named] if named else [usual]

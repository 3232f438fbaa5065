"""`hybrid notebook`: a notebook that works on a run on a rented machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from hybrid import plugins, wheel
from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, Word
from hybrid.commands.stdout import STDOUT, place_of, refuse_two
from hybrid.folder.runs import Run, join_folder, open_run
from hybrid.local import chosen_folder
from hybrid.notebook import Plan, place_there, write_notebook

LOG = logging.getLogger("hybrid")


@click.command()
@click.argument("kind", type=click.Choice(["colab", "kaggle", "plain"]))
@click.argument("run", type=Word())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--at", metavar="PLACE", help="That folder for the notebook's machine; on kaggle: for rclone. Guessed.")
@click.option("-o", "--out", type=OUTPUT, help="The notebook, - for standard output [RUN.ipynb here]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the notebook's place.")
def notebook(kind: Any, run: str, folder: Path | None, at: str | None, out: Path | None, as_json: bool) -> None:
    """Write a notebook that works on RUN: on Google Colab, on Kaggle, or in a plain Jupyter.

    It finds the shared folder, installs this hybrid from there, and starts a worker. Running it again is always safe.
    """
    refuse_two(out, as_json=as_json)
    place = chosen_folder(folder)
    medium = join_folder(place, make=False)
    found = open_run(medium, run)
    _warn_of_foreign(found)
    plan = Plan(kind, found, wheel.build(), at or place_there(kind, place))
    path = out or Path(f"{found.id}.ipynb")
    medium.write(plan.wheel.path, plan.wheel.data)
    with place_of(path) as there:
        write_notebook(plan, there)
    if as_json:
        about = {"notebook": str(path), "run": found.id, "at": plan.place, "wheel": plan.wheel.path}
        click.echo(encode({**about, "sha256": plan.wheel.sha256}))
    elif path != STDOUT:
        click.echo(path)


def _warn_of_foreign(run: Run) -> None:
    """A pipeline of another distribution is not in our wheel."""
    name = str(run.spec["pipeline"])
    source = plugins.names("pipelines").get(name)
    if source is None or source.distribution != wheel.NAME:
        owner = f"'{source.distribution}'" if source else "a distribution that is not installed here"
        LOG.warning(
            "the pipeline '%s' comes from %s: the notebook does not install that; name it in PACKAGES, or set PYTHON",
            name,
            owner,
        )

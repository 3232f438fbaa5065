"""`hybrid notebook`: write a notebook with a worker for a run on a rented machine."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, OUTPUT, NonEmptyText
from hybrid.commands.stdout import STDOUT, refuse_both_on_stdout, writable_path
from hybrid.errors import BadData, HybridError, UsageError
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.local import chosen_folder
from hybrid.execution.roles import stages_of_run
from hybrid.execution.sides import asked_on, moved
from hybrid.folder.medium import Disk
from hybrid.folder.orders import known_orders
from hybrid.folder.runs import Run, join_folder, open_run
from hybrid.notebook import NotebookPlan, is_guess, place_there, write_notebook
from hybrid.notebook.document import as_json as bytes_of
from hybrid.notebook.kaggle_push import push as push_to_kaggle
from hybrid.notebook.packed import packed_models
from hybrid.notebook.scripts import SCRIPTS, SUFFIX, Script, write_script
from hybrid.plugins import installed, wheel
from hybrid.plugins.plugin_wheels import wheels_to_bring
from hybrid.plugins.wheel import Wheel

LOG = logging.getLogger("hybrid")


@click.command()
@click.argument("kind", type=click.Choice(["colab", "kaggle", "plain", *SCRIPTS]))
@click.argument("run", type=NonEmptyText())
@click.option("--folder", type=FOLDER, help=FOLDER_HELP)
@click.option("--at", metavar="PLACE", help="That folder for the notebook's machine; on kaggle: for rclone. Guessed.")
@click.option("-o", "--out", type=OUTPUT, help="Where to write it, - for standard output [RUN-KIND.ipynb here]")
@click.option("--push", is_flag=True, help="kaggle: save it there with Kaggle's own command line.")
@click.option("--start", is_flag=True, help="With --push: run it at once, where its secret is attached already.")
@click.option("--without-plugins", is_flag=True, help="Include hybrid alone; PACKAGES or PYTHON has the pipeline.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the notebook's place.")
def notebook(  # noqa: PLR0913, PLR0917
    kind: Any,
    run: str,
    folder: Path | None,
    at: str | None,
    out: Path | None,
    push: bool,
    start: bool,
    without_plugins: bool,
    as_json: bool,
) -> None:
    """Write a notebook that runs a worker for RUN on Google Colab, on Kaggle, or in plain Jupyter, or a script that
    does so over ssh, on SkyPilot or on Slurm.

    It finds the shared folder, installs this hybrid and the run's pipeline from there, and starts a worker. It can be
    run again at any time.
    """
    refuse_both_on_stdout(out, as_json=as_json)
    if push and kind != "kaggle":
        raise UsageError("--push is for Kaggle: no other site has a command line", hint="hybrid notebook kaggle RUN")
    if start and not push:
        raise UsageError("--start is for what --push saves", hint="hybrid notebook kaggle RUN --push --start")
    place = chosen_folder(folder)
    medium = join_folder(place, make=False)
    found = open_run(medium, run)
    wheels = (wheel.build(), *(() if without_plugins else _plugin_wheels(found)))
    notebook_kind: Any = "plain" if kind in SCRIPTS else kind
    roles = _roles(found)
    packed = packed_models(medium, [found.models[role] for role in roles])
    there = at or place_there(notebook_kind, place)
    plan = NotebookPlan(notebook_kind, found, wheels, there, roles, packed, _packages(found))
    if not at and is_guess(notebook_kind, place):
        LOG.warning("the place of the folder there is a guess, %s: --at says where it is", plan.place)
    path = out or Path(f"{found.id}{SUFFIX.get(kind, f'-{kind}.ipynb')}")
    for one in wheels:
        medium.write(one.path, one.data)
    with writable_path(path) as file:
        if kind in SCRIPTS:
            write_script(Script(kind, plan), file)
        else:
            write_notebook(plan, file)
    about = {"notebook": str(path), "run": found.id, "at": plan.place}
    if kind == "colab" and isinstance(medium, Disk) and (inside := _copy_into(medium, plan)):
        about["in_folder"] = inside
    if push:
        about["url"] = push_to_kaggle(plan, start=start)
    _tell(about, wheels, as_json=as_json, started=start)


def _copy_into(folder: Disk, plan: NotebookPlan) -> str:
    """Write the notebook into the folder too, so that it can be opened from Drive; its place there, "" if not.

    A notebook of this name is left as it is: it is the same one, perhaps with parameters that were changed in Colab.
    """
    data = bytes_of(plan)
    place = f"notebooks/{plan.run.id}-{hashlib.sha256(data).hexdigest()[:8]}.ipynb"
    try:
        folder.write(place, data)
    except BadData:
        LOG.info("%s is there already and was changed", place)
    except HybridError as error:
        LOG.warning("the notebook is not in the folder: %s", error.message)
        return ""
    return place


ATTACH = "Open it (Edit), Add-ons > Secrets: add or tick RCLONE_CONF; then Save Version > Save & Run All"
SAVED = f"it is saved there and does not run yet: only a person can attach a secret. {ATTACH}"
STARTED = f"Kaggle runs it now. It stops at once where its secret is not attached. {ATTACH}"


def _tell(about: dict[str, str], wheels: Sequence[Wheel], *, as_json: bool, started: bool) -> None:
    """Print what was made, and to standard error what a person does next."""
    if as_json:
        ours, *others = [{"wheel": one.path, "sha256": one.sha256} for one in wheels]
        click.echo(encode({**about, **ours, "plugins": others}))
    elif about["notebook"] != str(STDOUT):
        click.echo(about["notebook"])
    if "in_folder" in about:
        click.echo(
            f"it is in the folder, too: {about['in_folder']}. In Drive: Open with > Google Colaboratory", err=True
        )
    if "url" in about:
        if not as_json:
            click.echo(about["url"], err=about["notebook"] == str(STDOUT))
        click.echo(STARTED if started else SAVED, err=True)


def _roles(run: Run) -> tuple[str, ...]:
    """The roles of the models that the GPU side uses; all roles when the pipeline is not installed."""
    if len(run.models) == 1 or str(run.spec["pipeline"]) not in installed.names("pipelines"):
        return tuple(run.models)
    sides = known_orders((run.folder,), run.id, []).sides
    return tuple(asked_on(moved(stages_of_run(run, pipeline_of(run)), sides), ("gpu", "any"), sides))


def _packages(run: Run) -> tuple[str, ...]:
    """What the run's pipeline names as its `packages`, if it is installed here."""
    name = str(run.spec["pipeline"])
    known = name in installed.names("pipelines")
    return tuple(getattr(installed.load("pipelines", name), "packages", ())) if known else ()


def _plugin_wheels(run: Run) -> tuple[Wheel, ...]:
    """The wheels of the distribution that declares the run's pipeline, unless it is ours. Raises CannotRun."""
    name = str(run.spec["pipeline"])
    owner = installed.distribution_of("pipelines", name)
    if owner is None:
        LOG.warning(
            "the pipeline '%s' is not installed here, so the notebook does not bring it: set PYTHON there", name
        )
        return ()
    if owner.name == wheel.NAME:
        return ()
    found = wheels_to_bring(owner)
    if wheel.NAME in found.requirements:
        LOG.warning("'%s' asks for a distribution '%s': an index has another project's there", owner.name, wheel.NAME)
    if others := [one for one in found.requirements if one != wheel.NAME]:
        LOG.warning(
            "'%s' asks for %s: where hybrid does not bring it, name it in the notebook's PACKAGES",
            owner.name,
            ", ".join(others),
        )
    return found.wheels

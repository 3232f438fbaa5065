"""`hybrid models`: pull a model, pack it into the shared folder, restore it on another machine, verify, list, prune."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hybrid.canonical import encode
from hybrid.commands.options import FOLDER, FOLDER_HELP, Duration
from hybrid.commands.pulling import ollama_name, pull
from hybrid.errors import BadData, HybridError, NotFinished, UsageError
from hybrid.execution.local import chosen_folder
from hybrid.folder.medium import NotThere
from hybrid.folder.object_store import directory
from hybrid.folder.runs import join_folder
from hybrid.machine import home
from hybrid.machine.files import expanded, explain_errors
from hybrid.machine.terminal import clean_line, count_of, is_or_are
from hybrid.models import catalog, packing, pruning, restoring
from hybrid.models.catalog import ModelStatus
from hybrid.models.layers import OnProgress
from hybrid.models.manifest import Model, read_models
from hybrid.models.names import OllamaName, slug
from hybrid.models.ollama_store import OllamaStore, chosen_store

MAX_LINE = 1000
STORE_HELP = "Ollama's store [OLLAMA_MODELS, ~/.ollama/models]"
JSON_HELP = "One JSON object instead of words."
STORE = click.Path(path_type=Path, file_okay=False)

folder_option = click.option("--folder", type=FOLDER, help=FOLDER_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help=JSON_HELP)


@click.group()
def models() -> None:
    """Keep models in the shared folder: a Colab session restores them from Drive instead of downloading them again."""


models.add_command(pull)


@models.command("pack")
@click.argument("source", metavar="NAME|PATH")
@folder_option
@click.option("--store", type=STORE, help=STORE_HELP)
@click.option("--as", "name", default="", help="The name of a packed file or folder [that of the file or folder]")
@json_option
def pack(source: str, folder: Path | None, store: Path | None, name: str, as_json: bool) -> None:
    """Pack a model: of Ollama by its NAME, or by PATH a .gguf file or a folder in Hugging Face's layout.

    A path that is there comes first, unless --store is given. The same command continues where it stopped, and replaces
    damaged files in the folder.
    """
    where = chosen_folder(folder)
    place = join_folder(where, make=False)
    path = expanded(source)
    if source.startswith((".", "/", "~")) or path.suffix.lower() == ".gguf":
        with explain_errors(path, doing="looking for the model"):
            path.stat()
    if store is None and path.exists():
        found = packing.plain_source(path, name)
    elif name:
        raise UsageError("--as is for files and folders; a model of Ollama keeps its name")
    else:
        found = _of_ollama(source, OllamaStore(chosen_store(store)))
    with _progress(found.size, f"packing {found.name}") as on_progress:
        packed = packing.pack(place, found, on_progress)
    pruning.forget(where, packed)
    click.echo(f"packed into {place}", err=True)
    click.echo(encode(_as_json(packed)) if as_json else clean_line(str(packed), MAX_LINE))


def _of_ollama(source: str, store: OllamaStore) -> packing.ModelSource:
    try:
        return packing.ollama_source(store, ollama_name(source))
    except UsageError as error:
        error.message += ", and no file or folder of that name"
        raise


@models.command("restore")
@click.argument("name", metavar="NAME[@DIGEST]")
@folder_option
@click.option("--store", type=STORE, help=STORE_HELP)
@click.option("--to", type=STORE, help="Where a packed file or folder goes [HYBRID_HOME/models/NAME-DIGEST]")
@click.option("--as", "other", default="", help="Give a model of Ollama another name")
@click.option(
    "--replace", is_flag=True, help="Write over another model that has the name, or other files in the place."
)
@json_option
def restore(
    name: str, folder: Path | None, store: Path | None, to: Path | None, other: str, replace: bool, as_json: bool
) -> None:
    """Restore a packed model to this machine's own disk; every byte is verified before it counts.

    A model of Ollama goes into Ollama's store, where a running server sees it at once; a file or folder goes below
    --to, and its path is printed. The same command continues where it stopped.
    """
    where = chosen_folder(folder)
    place = join_folder(where, make=False)
    model = catalog.chosen(place, name)
    _refuse_foreign_options(model, store, to, other)
    with _progress(sum(layer.size for layer in model.layers), f"restoring {model}") as on_progress:
        if model.kind == "ollama":
            own = OllamaStore(chosen_store(store))
            own.refuse_bad_place(where)
            wanted = ollama_name(other) if other else OllamaName.parse(model.name)
            restoring.restore_ollama(place, model, own, wanted, on_progress, replace=replace)
            result = str(wanted)
        else:
            target = to or home.home() / "models" / f"{slug(model.name)}-{model.digest[:12]}"
            restoring.refuse_shared(target, where)
            result = str(restoring.restore_plain(place, model, target.absolute(), on_progress, replace=replace))
    click.echo(encode({**_as_json(model), "restored": result}) if as_json else result)


def _refuse_foreign_options(model: Model, store: Path | None, to: Path | None, other: str) -> None:
    if model.kind == "ollama" and to:
        raise UsageError(f"{model} is a model of Ollama: it goes into a store", hint="--store instead of --to")
    if model.kind != "ollama" and (store or other):
        raise UsageError(f"{model} is no model of Ollama: it goes into a folder", hint="--to instead of --store, --as")


@models.command("list")
@folder_option
@json_option
def list_models(folder: Path | None, as_json: bool) -> None:
    """List the packed models: what they are, whether all parts are here, what they share.

    Parts are known by their names; `verify` reads them.
    """
    place = join_folder(chosen_folder(folder), make=False)
    found, refused = catalog.model_statuses(place)
    if as_json:
        listed = [_status_json(one) for one in found]
        click.echo(encode({"models": listed, "refused": [clean_line(error.message, MAX_LINE) for error in refused]}))
        return
    width = max((len(one.model.name) for one in found), default=0)
    for one in found:
        click.echo(clean_line(_line(one, width), MAX_LINE))
    for error in refused:
        click.echo(clean_line(f"passed over: {error.message}", MAX_LINE), err=True)
    if not found:
        click.echo(f"no model is packed in {place}: `hybrid models pack NAME|PATH`", err=True)


def _line(one: ModelStatus, width: int) -> str:
    model = one.model
    state = "complete" if one.complete else f"{one.here:,} of {count_of(one.parts, 'part')} {is_or_are(one.here)} here"
    shared = f", {_size(one.shared)} of it shared" if one.shared else ""
    return f"{model.name:<{width}}  {model.digest[:12]}  {model.kind:<6}  {_size(model.size):>9}  {state}{shared}"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _as_json(model: Model) -> dict[str, object]:
    about: dict[str, object] = {"name": clean_line(model.name, MAX_LINE), "kind": model.kind, "digest": model.digest}
    return {**about, "size": model.size, "layers": len(model.layers), "manifest": model.path}


def _status_json(one: ModelStatus) -> dict[str, object]:
    parts = {"parts": one.parts, "parts_here": one.here, "complete": one.complete, "shared": one.shared}
    return {**_as_json(one.model), **parts}


@models.command("verify")
@click.argument("name", metavar="[NAME[@DIGEST]]", required=False)
@folder_option
@json_option
def verify(name: str | None, folder: Path | None, as_json: bool) -> None:
    """Read every byte of the packed models, or of one, and name what is damaged (exit code 6) or missing (5)."""
    place = join_folder(chosen_folder(folder), make=False)
    found, refused = ([catalog.chosen(place, name)], list[HybridError]()) if name else read_models(place)
    with _progress(sum(model.size for model in found), "verifying") as on_progress:
        wrong = refused + catalog.check(place, found, on_progress)
    if as_json:
        messages = [clean_line(error.message, MAX_LINE) for error in wrong]
        click.echo(encode({"models": [_as_json(model) for model in found], "wrong": messages}))
    else:
        for error in wrong:
            click.echo(clean_line(error.message, MAX_LINE))
    _judge(found, wrong)


def _judge(found: list[Model], wrong: list[HybridError]) -> None:
    """Raise BadData when a file is damaged, NotThere when one is missing; else print that all is well."""
    damaged = [error for error in wrong if isinstance(error, BadData)]
    if damaged:
        raise BadData(f"{_counted(damaged)} damaged: {damaged[0].message}", hint=damaged[0].hint)
    if wrong:
        hint = "wait for the sync; if it stays so, pack the model again where it still is"
        raise NotThere(f"{_counted(wrong)} not here, or not yet: {wrong[0].message}", hint=hint)
    models_ = count_of(len(found), "model")
    click.echo(f"{models_}, {_size(sum(model.size for model in found))}: all is well", err=True)


def _counted(wrong: list[Any]) -> str:
    return f"{count_of(len(wrong), 'file')} {is_or_are(len(wrong))}"


@models.command("prune")
@click.argument("names", metavar="[NAME[@DIGEST]]...", nargs=-1)
@folder_option
@click.option("--unused", is_flag=True, help="What no model names, such as parts of a pack that was given up.")
@click.option("--grace", type=Duration(), default="1d", show_default=True, help="Time between marking and removing.")
@click.option("--yes", is_flag=True, help="Do it; without it, print what would be done.")
@json_option
def prune(names: tuple[str, ...], folder: Path | None, unused: bool, grace: float, yes: bool, as_json: bool) -> None:
    """Remove packed models, and what no model needs, in two steps: mark, and after --grace the same command removes.

    What any other model needs is never removed, and nothing is while a manifest cannot be read.
    """
    if not names and not unused:
        raise UsageError("name the models to remove, or say --unused")
    place = directory(join_folder(chosen_folder(folder), make=False), "models are removed by hybrid")
    planned = pruning.plan(place, names, unused=unused)
    if not yes:
        _show_plan(planned, as_json=as_json)
        click.echo(f"{count_of(len(planned.paths), 'file')} would go; nothing was done: add --yes", err=True)
        return
    done = pruning.step(place, planned, grace=grace, now=time.time())
    if as_json:
        waits = {"removed": len(done.removed), "waiting": len(done.waiting), "seconds": round(done.seconds, 1)}
        click.echo(encode({**waits, "marks_made_anew": done.anew}))
    else:
        click.echo(f"{count_of(len(done.removed), 'file')} removed", err=True)
    if done.waiting:
        anew = "a manifest that was here at the marking is gone, so all marks are new; " if done.anew else ""
        raise NotFinished(
            f"{anew}{count_of(len(done.waiting), 'file')} {is_or_are(len(done.waiting))} marked and still there",
            hint=f"the same command removes them in {done.seconds / 3600:.1f} h or later",
        )


def _show_plan(planned: pruning.PrunePlan, *, as_json: bool) -> None:
    if as_json:
        click.echo(encode({"models": [_as_json(model) for model in planned.models], "paths": planned.paths}))
        return
    for line in (*map(str, planned.models), *planned.paths):
        click.echo(clean_line(line, MAX_LINE))


@contextmanager
def _progress(total: int, what: str) -> Iterator[OnProgress]:
    """A progress bar on stderr if it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total, label=clean_line(what, 60), file=sys.stderr) as bar:
        yield bar.update

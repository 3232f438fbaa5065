"""Bring a packed model onto this machine's own disk: staged beside its place, verified whole, then moved there.

A layer is written into a file of the staging place and moved when all of them are whole; what makes it a model, the
manifest of Ollama or a folder's config.json, comes last. After a kill the next call goes on at the part that was open.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hybrid.errors import BadData, Temporary, UsageError
from hybrid.folder.medium import Medium, NotThere
from hybrid.machine.files import speaking, write_once
from hybrid.machine.lock import alone
from hybrid.machine.terminal import some
from hybrid.models.layers import Told, present, read_layer
from hybrid.models.manifest import Layer, Model
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import STAGING, OllamaStore, plain


def restore_ollama(
    folder: Medium, model: Model, store: OllamaStore, name: OllamaName, told: Told, *, replace: bool = False
) -> Path:
    """Make `model` a model of that name in Ollama's store. Returns the path of its manifest there.

    Another model under that name is overwritten only with `replace`. Raises UsageError, NotThere (not all here yet),
    BadData (damaged), Temporary (no room, another restore at work), CannotRun.
    """
    with alone(store.root, f"restores models to {store.root}"):
        path = _free(store, model, name, replace=replace)
        targets = {store.blob(layer.sha256): layer for layer in model.layers}
        _bring(folder, model, targets, store.staging, told)
        _touch(targets)
        path = _free(store, model, name, replace=replace)
        _publish(store, path, model.source.encode())
        _tidy(store.staging)
    return path


def _free(store: OllamaStore, model: Model, name: OllamaName, *, replace: bool) -> Path:
    """Where the manifest goes. Raises UsageError when another model has that name."""
    path = store.manifest_path(name)
    if path.is_dir():
        raise BadData(f"{path}: a folder where a manifest belongs", hint="move it away")
    if path.exists() and not replace and store.manifest_of(name) != model.source.encode():
        hint = f"--replace, or --as NAME; `hybrid models pack {name}` keeps the one that is there"
        raise UsageError(f"{store} has another model '{name}'", hint=hint)
    return path


def _touch(blobs: Iterable[Path]) -> None:
    """A server that starts deletes layers without a model when they are an hour old: these are new, as after a pull."""
    for blob in blobs:
        with speaking(blob, doing="marking it as new"):
            os.utime(blob)


def _publish(store: OllamaStore, path: Path, manifest: bytes) -> None:
    """Give the manifest its name, whole: a reader sees the old one or this one."""
    draft = plain(store.staging) / f"manifest-{hashlib.sha256(manifest).hexdigest()}"
    write_once(draft, manifest, heal=True)
    with speaking(path, doing="writing it"):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)
        _sync(path.parent)


def restore_plain(folder: Medium, model: Model, to: Path, told: Told, *, replace: bool = False) -> Path:
    """Make a packed folder or GGUF files below `to`. Returns the path to name as a model.

    Raises UsageError when `to` holds something else (files of other content are written over with `replace`), and what
    `restore_ollama` raises.
    """
    with alone(to, f"restores a model to {to}"):
        targets = {to / layer.path: layer for layer in model.layers}
        _refuse_foreign(to, targets, replace=replace)
        _bring(folder, model, targets, to / STAGING, told)
        _tidy(to / STAGING)
    return to / model.layers[0].path if model.kind == "gguf" else to


def refuse_shared(to: Path, folder: Path) -> None:
    """Raise UsageError when a place lies in the shared folder, whose files are nobody's to change."""
    with speaking(to, doing="looking where it is"):
        inside = folder.resolve() in (to.resolve(), *to.resolve().parents)
    if inside:
        raise UsageError(f"{to} lies in the shared folder {folder}", hint="--to: a place on this machine's own disk")


def _refuse_foreign(to: Path, targets: Mapping[Path, Layer], *, replace: bool) -> None:
    """A file that is none of the model's would make the folder another model; a link would lead out of it."""
    with speaking(to, doing="looking into it"):
        if to.exists() and not to.is_dir():
            raise UsageError(f"{to} is not a folder", hint="--to FOLDER")
        there = [path for path in to.rglob("*") if STAGING not in path.relative_to(to).parts] if to.is_dir() else []
        above = {parent for target in targets for parent in target.parents}
        for path in there:
            if path.is_symlink() or not (path in above if path.is_dir() else path in targets):
                raise UsageError(
                    f"{to} holds {path.name!r:.200}, which is not of this model", hint="--to: an empty place"
                )
            if not (replace or path in above or _is(path, targets[path])):
                raise UsageError(f"{path} is there with another content", hint="--replace writes over it")


def _bring(folder: Medium, model: Model, targets: Mapping[Path, Layer], staging: Path, told: Told) -> None:
    """Put every layer at its place, or none. Raises NotThere when parts are missing: what is here is kept staged."""
    missing: list[NotThere] = []
    staged = _staged(targets, staging, told)
    _check_room(staged, targets, staging)
    for place, target in staged.items():
        try:
            with _opened(place) as into:
                read_layer(folder, targets[target], into, told)
        except NotThere as error:
            missing.append(error)
    if missing:
        here, total = len(present(folder, model)), len(model.parts)
        raise NotThere(
            f"{model} is not all here yet: {min(here, total - 1):,} of {some(total, 'part')}; {missing[0].message}",
            hint="wait for the sync, then run the same command: what is here already is kept",
        )
    _move(staged)


def _staged(targets: Mapping[Path, Layer], staging: Path, told: Told) -> dict[Path, Path]:
    """File to write -> its place, for every layer that is not at its place yet; config.json comes last."""
    counts: Counter[str] = Counter()
    staged: dict[Path, Path] = {}
    for target in sorted(targets, key=lambda path: (path.name == "config.json", path)):
        layer = targets[target]
        place = plain(staging) / f"{layer.sha256}-{counts[layer.sha256]}"
        counts[layer.sha256] += 1  # two files of a folder may be one layer
        if _is(plain(target), layer):
            told(layer.size)
        else:
            staged[place] = target
    return staged


def _is(path: Path, layer: Layer) -> bool:
    """Whether a file of this machine holds a layer: its bytes are read."""
    with speaking(path, doing="reading it"):
        if not path.is_file() or path.stat().st_size != layer.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == layer.sha256


def _check_room(staged: Mapping[Path, Path], targets: Mapping[Path, Layer], staging: Path) -> None:
    """Raise Temporary when the disk has not the room for what is left to write."""
    place = next(path for path in (staging, *staging.parents) if path.exists())
    with speaking(place, doing="asking for its free space"):
        here = sum(min(path.stat().st_size, targets[to].size) for path, to in staged.items() if path.is_file())
        free = shutil.disk_usage(place).free
    needed = sum(targets[target].size for target in staged.values()) - here
    if needed > free:
        raise Temporary(
            f"no room for the model on the disk of {place}: {needed:,} bytes are needed, {free:,} are free",
            hint="free some space and run the same command again",
        )


@contextmanager
def _opened(place: Path) -> Iterator[BinaryIO]:
    """The file of a layer on its way, made when it is not there; on disk when the block ends well."""
    with speaking(place, doing="writing it"):
        place.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(plain(place), flags, 0o644), "r+b", buffering=0) as stream:
            yield stream
            os.fsync(stream.fileno())


def _move(staged: Mapping[Path, Path]) -> None:
    """Give every whole file its name. A file there already is not this layer: it was damaged, or may be replaced."""
    for place, target in staged.items():
        with speaking(target, doing="writing it"):
            target.parent.mkdir(parents=True, exist_ok=True)
            place.replace(plain(target))
            _sync(target.parent)


def _sync(place: Path) -> None:
    """Force the names of a folder to disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _tidy(staging: Path) -> None:
    """Remove the staging place when nothing is left in it: another model may be on its way."""
    with suppress(OSError):
        staging.rmdir()

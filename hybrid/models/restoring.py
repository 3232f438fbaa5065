"""Restore a packed model to this machine's own disk: staged, verified completely, then moved to its place.

Layers are written to a staging folder and moved when all are complete. The file that makes them a model, Ollama's
manifest or a folder's config.json, comes last. After a kill the next call resumes at the unfinished part.
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
from hybrid.machine.files import explain_errors, write_once
from hybrid.machine.lock import exclusive_lock
from hybrid.machine.terminal import count_of
from hybrid.models.layers import OnProgress, present, read_layer
from hybrid.models.manifest import Layer, Model
from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import STAGING, OllamaStore, refuse_link


def restore_ollama(
    folder: Medium,
    model: Model,
    store: OllamaStore,
    name: OllamaName,
    on_progress: OnProgress,
    *,
    replace: bool = False,
) -> Path:
    """Restore `model` under `name` in Ollama's store. Returns the path of its manifest there.

    Another model of that name is replaced only with `replace`. Raises UsageError, NotThere (not all parts have
    arrived), BadData (damaged), Temporary (disk full, another restore is running), CannotRun.
    """
    with exclusive_lock(store.root, f"restores models to {store.root}"):
        path = _manifest_place(store, model, name, replace=replace)
        targets = {store.blob(layer.sha256): layer for layer in model.layers}
        _install(folder, model, targets, store.staging, on_progress)
        _touch(targets)
        path = _manifest_place(store, model, name, replace=replace)
        _publish(store, path, model.source.encode())
        _remove_if_empty(store.staging)
    return path


def _manifest_place(store: OllamaStore, model: Model, name: OllamaName, *, replace: bool) -> Path:
    """The path of the manifest. Raises UsageError when another model has that name."""
    path = store.manifest_path(name)
    if path.is_dir():
        raise BadData(f"{path}: a folder where a manifest belongs", hint="move it away")
    if path.exists() and not replace and store.manifest_of(name) != model.source.encode():
        hint = f"--replace, or --as NAME; `hybrid models pack {name}` keeps the one that is there"
        raise UsageError(f"{store} has another model '{name}'", hint=hint)
    return path


def _touch(blobs: Iterable[Path]) -> None:
    """Set the modification time to now: at its start the server deletes layers without a model that are an hour old."""
    for blob in blobs:
        with explain_errors(blob, doing="marking it as new"):
            os.utime(blob)


def _publish(store: OllamaStore, path: Path, manifest: bytes) -> None:
    """Write the manifest atomically: a reader sees the old one or this one."""
    draft = refuse_link(store.staging) / f"manifest-{hashlib.sha256(manifest).hexdigest()}"
    write_once(draft, manifest, heal=True)
    with explain_errors(path, doing="writing it"):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)
        _sync(path.parent)


def restore_plain(folder: Medium, model: Model, to: Path, on_progress: OnProgress, *, replace: bool = False) -> Path:
    """Restore a packed folder or GGUF below `to`. Returns the path to use as the model.

    Raises UsageError when `to` holds other files (files of the same names are overwritten with `replace`), and what
    `restore_ollama` raises.
    """
    with exclusive_lock(to, f"restores a model to {to}"):
        targets = {to / layer.path: layer for layer in model.layers}
        _refuse_foreign(to, targets, replace=replace)
        _install(folder, model, targets, to / STAGING, on_progress)
        _remove_if_empty(to / STAGING)
    return to / model.layers[0].path if model.kind == "gguf" else to


def refuse_shared(to: Path, folder: Path) -> None:
    """Raise UsageError when `to` is in the shared folder, whose files must not be changed."""
    with explain_errors(to, doing="looking where it is"):
        inside = folder.resolve() in (to.resolve(), *to.resolve().parents)
    if inside:
        raise UsageError(f"{to} lies in the shared folder {folder}", hint="--to: a place on this machine's own disk")


def _refuse_foreign(to: Path, targets: Mapping[Path, Layer], *, replace: bool) -> None:
    """Raise UsageError for files that are not of the model, which could change its digest, and for links."""
    with explain_errors(to, doing="looking into it"):
        if to.exists() and not to.is_dir():
            raise UsageError(f"{to} is not a folder", hint="--to FOLDER")
        there = [path for path in to.rglob("*") if STAGING not in path.relative_to(to).parts] if to.is_dir() else []
        above = {parent for target in targets for parent in target.parents}
        for path in there:
            if path.is_symlink() or not (path in above if path.is_dir() else path in targets):
                raise UsageError(
                    f"{to} holds {path.name!r:.200}, which is not of this model", hint="--to: an empty place"
                )
            if not (replace or path in above or _holds(path, targets[path])):
                raise UsageError(f"{path} is there with another content", hint="--replace writes over it")


def _install(
    folder: Medium, model: Model, targets: Mapping[Path, Layer], staging: Path, on_progress: OnProgress
) -> None:
    """Install every layer, or none. Raises NotThere when parts are missing; layers that are here remain staged."""
    missing: list[NotThere] = []
    staged = _staged(targets, staging, on_progress)
    _check_room(staged, targets, staging)
    for place, target in staged.items():
        try:
            with _opened(place) as into:
                read_layer(folder, targets[target], into, on_progress)
        except NotThere as error:
            missing.append(error)
    if missing:
        here, total = len(present(folder, model)), len(model.parts)
        raise NotThere(
            f"{model} is not all here yet: {min(here, total - 1):,} of {count_of(total, 'part')}; {missing[0].message}",
            hint="wait for the sync, then run the same command: what is here already is kept",
        )
    _move(staged)


def _staged(targets: Mapping[Path, Layer], staging: Path, on_progress: OnProgress) -> dict[Path, Path]:
    """Staging file -> target, for every layer that is not installed yet; config.json comes last."""
    counts: Counter[str] = Counter()
    staged: dict[Path, Path] = {}
    for target in sorted(targets, key=lambda path: (path.name == "config.json", path)):
        layer = targets[target]
        place = refuse_link(staging) / f"{layer.sha256}-{counts[layer.sha256]}"
        counts[layer.sha256] += 1  # two files of a folder may have the same layer
        if _holds(refuse_link(target), layer):
            on_progress(layer.size)
        else:
            staged[place] = target
    return staged


def _holds(path: Path, layer: Layer) -> bool:
    """Whether a local file is the layer; its bytes are hashed."""
    with explain_errors(path, doing="reading it"):
        if not path.is_file() or path.stat().st_size != layer.size:
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == layer.sha256


def _check_room(staged: Mapping[Path, Path], targets: Mapping[Path, Layer], staging: Path) -> None:
    """Raise Temporary when the disk lacks space for what is left to write."""
    place = next(path for path in (staging, *staging.parents) if path.exists())
    with explain_errors(place, doing="asking for its free space"):
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
    """The staging file of a layer, created if missing; synced to disk when the block succeeds."""
    with explain_errors(place, doing="writing it"):
        place.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(refuse_link(place), flags, 0o644), "r+b", buffering=0) as stream:
            yield stream
            os.fsync(stream.fileno())


def _move(staged: Mapping[Path, Path]) -> None:
    """Move every staged file to its target. An existing target is damaged, or may be replaced."""
    for place, target in staged.items():
        with explain_errors(target, doing="writing it"):
            target.parent.mkdir(parents=True, exist_ok=True)
            place.replace(refuse_link(target))
            _sync(target.parent)


def _sync(place: Path) -> None:
    """Sync a directory to disk, where the system supports it."""
    with suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_if_empty(staging: Path) -> None:
    """Remove the staging folder when it is empty: another model may still be staged."""
    with suppress(OSError):
        staging.rmdir()

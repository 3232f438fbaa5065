"""Remove models from the folder by mark and sweep: unreferenced files are marked, and removed after a grace period.

The marks are on this machine's own disk and use its own clock. The grace period is for manifests of other machines that
are not listed yet. When a manifest that was listed at the marking is gone, it was either deleted or the listing is
wrong, so all marks are renewed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.canonical import decode, encode
from hybrid.errors import BadData, HybridError, UsageError, nearest
from hybrid.folder.medium import Disk, Medium
from hybrid.folder.names import allowed
from hybrid.machine import home
from hybrid.machine.files import read_bounded
from hybrid.machine.replacing import replacing
from hybrid.models.catalog import matching, refuse_several
from hybrid.models.manifest import PART_FILE, Model, read_models

MARK_LIFETIME = 30 * 86400.0
"""Seconds after the grace period until a mark expires: so old a decision must be made again."""
MAX_MARKS = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What may be removed: the named models, and the files that no other model needs, manifests first."""

    models: tuple[Model, ...]
    paths: tuple[str, ...]
    manifests: frozenset[str]


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The result of a step: removed files, files that are only marked, seconds until they can be removed.

    `anew`: whether all marks were renewed.
    """

    removed: tuple[str, ...]
    waiting: tuple[str, ...]
    seconds: float
    anew: bool = False


@dataclass(slots=True)
class Marks:
    """The manifests that were listed at the marking, and path -> time of its mark."""

    known: set[str] = field(default_factory=set)
    times: dict[str, float] = field(default_factory=dict)


def plan(folder: Medium, names: Iterable[str], *, unused: bool) -> PrunePlan:
    """What may be removed of the models with these names, and with `unused` the parts that no model needs.

    Raises UsageError for an unknown name; BadData when a manifest cannot be read, since it may need any part.
    """
    models, refused = read_models(folder)
    if refused:
        raise BadData(
            f"nothing is pruned while a manifest cannot be read: {refused[0].message}",
            hint="wait for the sync; if it stays so, delete that file and pack its model again",
        )
    going: dict[str, Model] = {}
    for name in names:
        found = matching(models, name)
        if not found:
            raise UsageError(
                f"no model '{name}' is packed in {folder}", hint=nearest(name, {one.name for one in models})
            )
        refuse_several(found, name, folder)
        going |= {model.path: model for model in found}
    needed = {path for model in models if model.path not in going for path in model.parts}
    parts = {path for model in going.values() for path in model.parts} | set(_all_parts(folder) if unused else ())
    return PrunePlan(
        tuple(going.values()), (*sorted(going), *sorted(parts - needed)), frozenset(one.path for one in models)
    )


def _all_parts(folder: Medium) -> Iterator[str]:
    """The path of every part in the folder."""
    place = "models/layers"
    for depth in _folders(folder, place):
        for layer in _folders(folder, depth):
            for batch in _folders(folder, layer):
                names = (entry.name for entry in folder.entries(batch) if entry.kind == "file")
                yield from (f"{batch}/{name}" for name in names if PART_FILE.fullmatch(name))


def _folders(folder: Medium, place: str) -> list[str]:
    return [f"{place}/{one.name}" for one in folder.entries(place) if one.kind == "folder" and allowed(one.name)]


def step(folder: Disk, plan: PrunePlan, *, grace: float, now: float) -> PruneResult:
    """Remove files that have been marked for `grace` seconds, and mark the rest. `now`: this machine's clock."""
    marks = read_marks(folder.root)
    anew = bool(marks.known - plan.manifests)
    times = {} if anew else {path: at for path, at in marks.times.items() if now - grace - MARK_LIFETIME < at <= now}
    due = tuple(path for path in plan.paths if path in times and times[path] <= now - grace)
    for path in due:
        folder.remove(path)
        times.pop(path)
    _remove_empty(folder, due)
    waiting = tuple(path for path in plan.paths if path not in due)
    times = {**dict.fromkeys(waiting, now), **times}
    _write_marks(folder.root, Marks(set(plan.manifests) - set(due), times))
    last = max((times[path] for path in waiting), default=now - grace)
    return PruneResult(due, waiting, last + grace - now, anew)


def forget(folder: Path, model: Model) -> None:
    """Delete the marks of a model that was packed again."""
    marks = read_marks(folder)
    kept = {path: at for path, at in marks.times.items() if path != model.path and path not in model.parts}
    if kept != marks.times:
        _write_marks(folder, Marks(marks.known, kept))


def read_marks(folder: Path) -> Marks:
    """The marks of this machine; empty when they are missing or unreadable."""
    try:
        value = decode(read_bounded(_file(folder), MAX_MARKS), what="marks", limit=MAX_MARKS)
    except HybridError:
        return Marks()
    if not isinstance(value, dict) or not isinstance(value.get("known"), list):
        return Marks()
    return Marks(set(map(str, value["known"])), _times(value.get("times")))


def _times(value: Any) -> dict[str, float]:
    known: Mapping[str, Any] = value if isinstance(value, dict) else {}
    return {path: float(at) for path, at in known.items() if isinstance(at, int | float)}


def _write_marks(folder: Path, marks: Marks) -> None:
    with replacing(_file(folder), b"") as stream:
        stream.write(encode({"known": sorted(marks.known), "times": marks.times}))


def _file(folder: Path) -> Path:
    short = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return home.home() / "prune" / f"{short}.json"


def _remove_empty(folder: Disk, paths: Iterable[str]) -> None:
    """Remove the folders of layers that have become empty."""
    for place in sorted({parent for path in paths for parent in Path(path).parents}, reverse=True):
        if place.parts[:2] == ("models", "layers") and len(place.parts) > 2:
            with suppress(OSError):
                (folder.root / place).rmdir()

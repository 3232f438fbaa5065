"""Find pipelines, graders and report sections by name through entry points; refuse shadowed and duplicate ones.

Ours and third-party ones are found in the same way: by the entry point groups `hybrid.pipelines`, `hybrid.graders` and
`hybrid.reports` of all installed distributions. Names are read from the metadata, so listing them imports nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from hybrid.errors import CannotRun, HybridError, UsageError, nearest
from hybrid.machine.late_imports import import_object
from hybrid.plugins.wheel import NAME, PACKAGES

PluginKind = Literal["pipelines", "graders", "reports"]
KINDS: tuple[PluginKind, ...] = ("pipelines", "graders", "reports")
KIND_NAMES: dict[PluginKind, str] = {"pipelines": "pipeline", "graders": "grader", "reports": "report section"}
"""The singular of each kind, for messages."""


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin comes from: the distribution that declares it, and `module:Class`.

    `rivals` are the other distributions that claim the same name: then none of them is loaded.
    """

    distribution: str
    value: str
    rivals: tuple[str, ...] = ()


def names(kind: PluginKind) -> Mapping[str, PluginSource]:
    """Every installed name of `kind` with its source, sorted; a name that is claimed twice has `rivals`."""
    return {name: _source(*claims) for name, claims in _claims(kind).items()}


def distribution_of(kind: PluginKind, name: str) -> Distribution | None:
    """The installed distribution that declares `name`; None when none does. Raises CannotRun when two do."""
    claims = _claims(kind).get(name)
    return _only(kind, name, claims).dist if claims else None


def load(kind: PluginKind, name: str) -> type[Any]:
    """The class called `name`: a dataclass whose fields are its settings.

    Raises UsageError for an unknown name, CannotRun when it is claimed twice, comes from a foreign package of the same
    name, or cannot be imported.
    """
    known = _claims(kind)
    if name not in known:
        none = "nothing is installed: run `pip install -e .` in the checkout, then look at `hybrid list`"
        raise UsageError(f"there is no {KIND_NAMES[kind]} '{name}'", hint=nearest(name, known) if known else none)
    entry = _only(kind, name, known[name])
    _refuse_shadowed(kind, entry, _place(entry.module.partition(".")[0]))  # checked before any of its code is executed
    loaded = _import(kind, entry)
    _refuse_shadowed(kind, entry, _place(entry.module))
    if not (isinstance(loaded, type) and dataclasses.is_dataclass(loaded)):
        raise CannotRun(
            f"the {KIND_NAMES[kind]} '{name}' is not a dataclass: {entry.value}", hint=f"it comes from {_owner(entry)}"
        )
    return loaded


@dataclass(frozen=True, slots=True)
class PluginOrigin:
    """The owner of some code: its name for messages, its distribution ("" when unknown) and its package."""

    title: str
    distribution: str
    package: str


def origin(owner: object) -> PluginOrigin:
    """The owner of a pipeline or grader; a text names a part of ours."""
    if isinstance(owner, str):
        return PluginOrigin(owner, NAME, NAME)
    cls = type(owner)
    package = cls.__module__.partition(".")[0]
    for kind in KINDS:
        for entry in entry_points(group=f"hybrid.{kind}"):
            if getattr(sys.modules.get(entry.module), entry.attr, None) is cls:
                owned = "" if _owner(entry) == NAME else f" of '{_owner(entry)}'"
                return PluginOrigin(f"the {KIND_NAMES[kind]} '{entry.name}'{owned}", _owner(entry), package)
    return PluginOrigin(f"{cls.__module__}.{cls.__qualname__}", NAME if package in PACKAGES else "", package)


def _claims(kind: PluginKind) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=f"hybrid.{kind}"), key=lambda entry: entry.name):
        found.setdefault(entry.name, []).append(entry)
    return {name: sorted(claims, key=_owner) if len(claims) > 1 else claims for name, claims in found.items()}


def _only(kind: PluginKind, name: str, claims: list[EntryPoint]) -> EntryPoint:
    if len(claims) > 1:
        owners = " and ".join(f"'{_owner(entry)}' ({entry.value})" for entry in claims)
        raise CannotRun(
            f"the {KIND_NAMES[kind]} '{name}' is claimed twice: by {owners}", hint="uninstall one of the two"
        )
    return claims[0]


def _source(entry: EntryPoint, *rivals: EntryPoint) -> PluginSource:
    return PluginSource(_owner(entry), entry.value, tuple(map(_owner, rivals)))


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unnamed distribution"


def _import(kind: PluginKind, entry: EntryPoint) -> Any:
    what = f"the {KIND_NAMES[kind]} '{entry.name}'"
    try:
        return import_object(f"{entry.module}:{entry.attr}", needed_for=what)
    except HybridError:
        raise
    except Exception as error:  # third-party code, perhaps not even valid Python
        said = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise CannotRun(
            f"{what} of '{_owner(entry)}' cannot be imported from {entry.value}: {said:.500}",
            hint=f"install or repair the distribution '{_owner(entry)}'",
        ) from error


def _place(module: str) -> Path | None:
    """The file or folder that `module` would be imported from; None when there is none. Does not execute it."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin and spec.has_location:
        return Path(spec.origin).resolve()
    return next((Path(folder).resolve() for folder in spec.submodule_search_locations or ()), None)


def _refuse_shadowed(kind: PluginKind, entry: EntryPoint, place: Path | None) -> None:
    """Raise CannotRun when `place` does not belong to the distribution that declares `entry`."""
    if place is None or entry.dist is None or any(place.is_relative_to(root) for root in _roots(entry.dist)):
        return
    raise CannotRun(
        f"the {KIND_NAMES[kind]} '{entry.name}' should come from '{_owner(entry)}', "
        f"but Python found another '{entry.module.partition('.')[0]}' first: {place}",
        hint="use the `hybrid` command in another folder, clear PYTHONPATH, or rename that package",
    )


def _roots(owner: Distribution) -> list[Path]:
    """The folders of a distribution's modules: where it is installed, and the checkout of an editable install."""
    roots = [Path(str(owner.locate_file(""))).resolve()]
    direct = json.loads(owner.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable") and direct.get("url", "").startswith("file:"):
        path = unquote(urlsplit(direct["url"]).path)
        roots.append(Path(re.sub(r"^/([A-Za-z]:)", r"\1", path)).resolve())  # file:///C:/x is C:/x
    return roots

"""What tells the runs of one pipeline apart: the settings in which they differ, as they are typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid.canonical import encoded
from hybrid.folder.spec import models_of
from hybrid.machine.terminal import clean_line

MOST = 6
"""Settings that are told of one run."""
LONGEST = 40
SHORT = 8
"""Hex digits of a digest: enough to see that two are not the same."""


def differing(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Run -> `name=value` of what it has otherwise than another run of its pipeline. `specs` maps runs to their specs.

    Where runs have the same settings, backend and model, their data or the model's files differ, and are told.
    """
    told: dict[str, tuple[str, ...]] = {}
    for group in _by(specs, lambda spec: str(spec["pipeline"])):
        settings = {run: _settings(spec) for run, spec in group.items()}
        names = _unlike(settings)
        for same in _by(group, lambda spec: encoded([spec["settings"], _models(spec)])):
            digests = {run: _digests(spec) for run, spec in same.items()}
            for run in same:
                apart = [f"{name}={settings[run][name]}" for name in names if name in settings[run]]
                more = [f"and {len(apart) - MOST} more"] if len(apart) > MOST else []
                told[run] = (*apart[:MOST], *more, *(f"{name} {digests[run][name]}" for name in _unlike(digests)))
    return told


def _by(specs: Mapping[str, Mapping[str, Any]], key: Any) -> Iterable[dict[str, Mapping[str, Any]]]:
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run, spec in specs.items():
        groups.setdefault(key(spec), {})[run] = spec
    return groups.values()


def _unlike(values: Mapping[str, Mapping[str, str]]) -> Sequence[str]:
    """The names under which not all have the same."""
    names = sorted({name for one in values.values() for name in one})
    return [name for name in names if len({one.get(name) for one in values.values()}) > 1]


def _settings(spec: Mapping[str, Any]) -> dict[str, str]:
    return {clean_line(name, LONGEST): clean_line(_typed(value), LONGEST) for name, value in spec["settings"].items()}


def _models(spec: Mapping[str, Any]) -> list[list[str]]:
    return [[role, one.backend, one.name] for role, one in models_of(spec).items()]


def _digests(spec: Mapping[str, Any]) -> dict[str, str]:
    digests = {"data": spec["inputs"], "references": spec["references"]}
    digests |= {role or "model": one.digest for role, one in models_of(spec).items()}
    return {name: str(value)[:SHORT] for name, value in digests.items()}


def _typed(value: Any) -> str:
    """A value as it is typed after `--set name=`."""
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return value if isinstance(value, str) else "none" if value is None else encoded(value)

"""The settings in which runs of one pipeline differ, as they are typed after `--set`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid.canonical import encoded
from hybrid.folder.spec import models_of
from hybrid.machine.terminal import clean_line

MAX_SETTINGS = 6
"""Most settings that are shown of one run."""
MAX_LENGTH = 40
"""Most characters of a name or a value."""
DIGEST_DIGITS = 8
"""Hex digits of a digest: enough to see that two are not the same."""


def differences(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Run -> `name=value` of the settings in which it differs from another run of its pipeline.

    `specs` maps runs to their specs. Where settings, backend and model are the same, the digests that differ are given:
    of the data, the references or a model's files.
    """
    result: dict[str, tuple[str, ...]] = {}
    for group in _grouped(specs, lambda spec: str(spec["pipeline"])):
        settings = {run: _settings(spec) for run, spec in group.items()}
        names = _differing(settings)
        for same in _grouped(group, lambda spec: encoded([spec["settings"], _models(spec)])):
            digests = {run: _digests(spec) for run, spec in same.items()}
            for run in same:
                shown = [f"{name}={settings[run][name]}" for name in names if name in settings[run]]
                more = [f"and {len(shown) - MAX_SETTINGS} more"] if len(shown) > MAX_SETTINGS else []
                files = [f"{name} {digests[run][name]}" for name in _differing(digests)]
                result[run] = (*shown[:MAX_SETTINGS], *more, *files)
    return result


def _grouped(specs: Mapping[str, Mapping[str, Any]], key: Any) -> Iterable[dict[str, Mapping[str, Any]]]:
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run, spec in specs.items():
        groups.setdefault(key(spec), {})[run] = spec
    return groups.values()


def _differing(values: Mapping[str, Mapping[str, str]]) -> Sequence[str]:
    """The names whose values are not the same in all runs."""
    names = sorted({name for one in values.values() for name in one})
    return [name for name in names if len({one.get(name) for one in values.values()}) > 1]


def _settings(spec: Mapping[str, Any]) -> dict[str, str]:
    settings = spec["settings"].items()
    return {clean_line(name, MAX_LENGTH): clean_line(_as_typed(value), MAX_LENGTH) for name, value in settings}


def _models(spec: Mapping[str, Any]) -> list[list[str]]:
    return [[role, one.backend, one.name] for role, one in models_of(spec).items()]


def _digests(spec: Mapping[str, Any]) -> dict[str, str]:
    digests = {"data": spec["inputs"], "references": spec["references"]}
    digests |= {role or "model": one.digest for role, one in models_of(spec).items()}
    return {name: str(value)[:DIGEST_DIGITS] for name, value in digests.items()}


def _as_typed(value: Any) -> str:
    """A value as it is typed after `--set name=`."""
    if isinstance(value, list):
        return ",".join(map(_as_typed, value))
    return value if isinstance(value, str) else "none" if value is None else encoded(value)

"""run.json, the spec of a run: pipeline, settings, inputs and models. docs/format.md is normative.

Version 1 names one model. A run of several models is of version 2: `models` maps each role to its model; the first
model has the role "".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json, digest
from hybrid.errors import BadData
from hybrid.folder.names import DIGEST

SPEC_FORMAT = "hybrid/run"
VERSIONS = (1, 2)
BLOBS = {"inputs", "references"}
SHARED_KEYS = {"format", "version", "pipeline", "settings", "about"} | BLOBS
FIRST_MODEL = {"backend", "model", "model_digest"}
SPEC_KEYS = SHARED_KEYS | FIRST_MODEL
"""The members of a spec of version 1."""
ROLE = re.compile(r"[a-z][a-z0-9-]{0,30}")
"""A role, as before `=` on the command line. That of the first model is ""."""
MOST_ROLES = 16
MAX_SPEC = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as a run names it: its backend, its name, and its digest, "" while that is open."""

    backend: str
    name: str
    digest: str = ""


def new_spec(
    pipeline: str,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    blobs: Mapping[str, str],
    models: Mapping[str, ModelSpec],
) -> dict[str, Json]:
    """The spec of a run; `blobs` are the sha256 of its inputs and references. One model makes a spec of version 1."""
    spec: dict[str, Json] = {
        "format": SPEC_FORMAT,
        "version": 1,
        "pipeline": pipeline,
        "settings": dict(settings),
        "about": dict(about),
        **blobs,
    }
    if set(models) == {""}:
        first = models[""]
        return {**spec, "backend": first.backend, "model": first.name, "model_digest": first.digest}
    named = {role: {"backend": one.backend, "name": one.name, "digest": one.digest} for role, one in models.items()}
    return {**spec, "version": 2, "models": named}


def models_of(spec: Mapping[str, Any]) -> dict[str, ModelSpec]:
    """The models of a checked spec of any version, by role: that of the first one, "", comes first."""
    if spec["version"] == 1:
        return {"": ModelSpec(spec["backend"], spec["model"], spec["model_digest"])}
    return {role: ModelSpec(**spec["models"][role]) for role in sorted(spec["models"])}


def check_spec(spec: Any, run: str) -> None:
    """Raise BadData for a spec that is not hybrid's, of another version, or whose digest is not in the id of `run`."""
    where = f"runs/{run}/run.json"
    if not isinstance(spec, dict) or spec.get("format") != SPEC_FORMAT:
        raise BadData(f"{where}: not a run of hybrid")
    version = spec.get("version")
    if version not in VERSIONS or isinstance(version, bool):
        raise BadData(f"{where}: run version {version!r:.20}, this hybrid reads 1 and 2", hint="update hybrid")
    keys = SPEC_KEYS if version == 1 else SHARED_KEYS | {"models"}
    if set(spec) != keys or not _typed(spec):
        raise BadData(f"{where}: its fields are not those of a run: {', '.join(sorted(set(spec) ^ keys)):.500}")
    if run != f"{spec['pipeline']}-{digest(spec)[:12]}":
        raise BadData(f"{where}: was changed after it was written: its hash is not that in the run's id")


def _typed(spec: Mapping[str, Any]) -> bool:
    """Whether all members have their types. The digests become parts of file names."""
    if not (isinstance(spec["settings"], dict) and isinstance(spec["about"], dict)):
        return False
    if not all(isinstance(spec[kind], str) and DIGEST.fullmatch(spec[kind]) for kind in BLOBS):
        return False
    if not isinstance(spec["pipeline"], str):
        return False
    if spec["version"] == 2:
        return _are_models(spec["models"])
    return _is_model([spec["backend"], spec["model"], spec["model_digest"]])


def _are_models(models: Any) -> bool:
    """Whether this maps "" and at least one more legal role to models."""
    if not isinstance(models, dict) or "" not in models or not 2 <= len(models) <= MOST_ROLES:
        return False
    return all(
        (role == "" or ROLE.fullmatch(role))
        and isinstance(one, dict)
        and set(one) == {"backend", "name", "digest"}
        and _is_model([one["backend"], one["name"], one["digest"]])
        for role, one in models.items()
    )


def _is_model(said: list[Any]) -> bool:
    """Whether backend, name and digest are texts, and the digest is a sha256 or empty."""
    return all(isinstance(one, str) for one in said) and (said[2] == "" or DIGEST.fullmatch(said[2]) is not None)

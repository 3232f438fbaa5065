"""`--model`, `--backend`, `--backend-option` and `--model-digest` of a run: one model a role of its pipeline.

`--model NAME` is the first model, `--model judge=NAME` that of the role 'judge'. Only a role of the pipeline counts
before the `=`; the first model, if its own name begins so, is written `--model =NAME`.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hybrid.backends.options import by_role, pairs
from hybrid.backends.registry import DEFAULT_BACKEND, DEFAULT_MODEL, SERVED, SUMMARIES, refuse_unknown_role
from hybrid.errors import UsageError, nearest
from hybrid.execution.chosen_model import Engine
from hybrid.execution.roles import roles_of
from hybrid.folder.names import DIGEST
from hybrid.folder.spec import ROLE, ModelSpec
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Pipeline, Role

BACKENDS = "; ".join(f"{name}: {line}" for name, line in SUMMARIES.items())
MODELS = (
    click.option(
        "--backend", "backends", multiple=True, metavar="NAME",
        help=f"{BACKENDS}. [{DEFAULT_BACKEND}] Of a further model: ROLE=NAME.",
    ),
    click.option(
        "--model", "models", multiple=True, metavar="NAME",
        help=f"A file, a folder or a known name; of Ollama, its name. [{DEFAULT_MODEL}] A further model: ROLE=NAME.",
    ),
)  # fmt: skip


def engines(pipeline: Pipeline, how: Mapping[str, Any]) -> dict[str, Engine]:
    """The models by role, each with its backend and the options of that. Raises UsageError."""
    roles = roles_of(pipeline)
    models, backends = one_each("--model", how["models"], roles), one_each("--backend", how["backends"], roles)
    options = by_role(how.get("options", ()), roles)
    _refuse_unasked(pipeline, {*models, *backends, *options} - {""})
    _refuse_unnamed((*backends, *options), ("", *models, *(role for role, one in roles.items() if one.model)))
    usual: Role = getattr(pipeline, "roles", {}).get("", Role(""))
    first = backends.get("") or usual.backend or DEFAULT_BACKEND
    refuse_unknown_role(first, options.get("", ()), roles)
    further = {role: one for role in roles if (one := models.get(role) or roles[role].model)}
    given = {"": _first(models.get("") or ("" not in backends and usual.model) or None, first)} | further
    return {
        role: Engine(
            backends.get(role) or (roles[role].backend if role else "") or first,
            model,
            dict(pairs("--backend-option", options.get(role, []))),
            embeds=bool(role) and roles[role].embeds,
        )
        for role, model in given.items()
    }


def specs(pipeline: Pipeline, how: Mapping[str, Any]) -> dict[str, ModelSpec]:
    """The models by role as a run for others names them, with the digests that are pinned. Raises UsageError."""
    roles, found = roles_of(pipeline), engines(pipeline, how)
    digests = {role: one.lower() for role, one in one_each("--model-digest", how["digests"], roles).items()}
    for role, digest in digests.items():
        if not DIGEST.fullmatch(digest):
            raise UsageError(f"--model-digest: '{digest:.80}' is not a sha256 of 64 hex digits")
        _refuse_unnamed((role,), found)
    return {role: ModelSpec(one.backend, one.model, digests.get(role, "")) for role, one in found.items()}


def one_each(option: str, texts: Iterable[str], roles: Mapping[str, Role]) -> dict[str, str]:
    """The value of each role. Raises UsageError for an unknown role, an empty value, and two values of one role."""
    texts = list(texts)
    for text in texts:
        role, equals, _ = text.partition("=")
        if equals and role not in roles and ROLE.fullmatch(role) and not Path(text).exists():
            known = nearest(role, roles) if roles else "this pipeline has one model only"
            raise UsageError(
                f"{option} {clean_line(text, 200)}: the pipeline has no role '{role}'",
                hint=f"{known}; a name with a '=' in it is written {option} ={clean_line(text, 200)}",
            )
    found: dict[str, str] = {}
    for role, values in by_role(texts, roles).items():
        where = f" of '{role}'" if role else ""
        if len(values) > 1:
            given = " and ".join(f"'{clean_line(one, 100)}'" for one in values[:2])
            known = f"; a further model has a role: {option} ROLE=NAME with {', '.join(roles)}" if roles else ""
            raise UsageError(f"{option}{where} is given {len(values)} times: {given}", hint=f"give one{known}")
        if not values[-1].strip():
            raise UsageError(f"{option}{where} is empty", hint="leave it out for the default one" if not role else "")
        found[role] = values[-1]
    return found


def _refuse_unnamed(roles: Iterable[str], named: Container[str]) -> None:
    """Raise UsageError for the first role for which something is given but no model is named."""
    for role in roles:
        if role not in named:
            raise UsageError(f"no model is named for '{role}'", hint=f"--model {role}=NAME names one")


def _refuse_unasked(pipeline: Pipeline, given: Collection[str]) -> None:
    """Raise UsageError for a role for which something is given although no stage asks its model with these settings."""
    asked = {role for stage in pipeline.stages() for role in stage.roles} if given else ()
    if unasked := sorted(role for role in given if role not in asked):
        raise UsageError(
            f"with these settings no stage asks the model '{unasked[0]}'",
            hint=f"leave it out; '{unasked[0]}' {roles_of(pipeline)[unasked[0]].help}",
        )


def _first(named: str | None, backend: str) -> str:
    """The model that was named, else the default one, which a server does not have."""
    if named is None and backend in SERVED:
        listing = "that `ollama list` shows" if backend == "ollama" else "that its server lists at /models"
        raise UsageError("no model is named", hint=f"--model NAME, one of those {listing}")
    return DEFAULT_MODEL if named is None else named

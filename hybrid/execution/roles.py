"""The roles of a pipeline, one for each model that its runs ask, and the stages that a run with given models has."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from hybrid.errors import CannotRun, HybridError, UsageError, nearest
from hybrid.folder.spec import ROLE
from hybrid.plugins import installed
from hybrid.plugins.faults import stages_of
from hybrid.protocols import Inputs, Pipeline, Role, Stage
from hybrid.work import Search

if TYPE_CHECKING:
    from hybrid.folder.runs import Run


def roles_of(pipeline: Pipeline) -> dict[str, Role]:
    """The roles of a pipeline other than "", the main model's, by name. Raises CannotRun for an impossible name."""
    declared: Mapping[str, Role] = getattr(pipeline, "roles", {})
    asked = {role for stage in stages_of(pipeline) for role in stage.roles}
    roles = {name: declared.get(name, Role("")) for name in sorted((asked | set(declared)) - {""})}
    if strange := [name for name in roles if not ROLE.fullmatch(name)]:
        raise CannotRun(
            f"the pipeline has a role with an impossible name: {strange[0]!r:.60}",
            hint="the fault is in the pipeline: a role is made of a-z, 0-9 and -, and begins with a letter",
        )
    return roles


def refuse_missing(pipeline: Pipeline, named: Collection[str]) -> None:
    """Raise UsageError when a required role of the pipeline is not among the `named` ones."""
    searched = {role for stage in stages_of(pipeline) if isinstance(stage.work, Search) for role in stage.roles}
    for name, role in roles_of(pipeline).items():
        if name not in named and (name in searched or not role.optional):
            raise UsageError(f"the pipeline needs a model for '{name}'", hint=f"--model {name}=NAME{_purpose(role)}")


@contextmanager
def naming_role(role: str) -> Iterator[None]:
    """Add the role to the errors of the block; those of the main model, whose role is "", stay as they are."""
    try:
        yield
    except HybridError as error:
        if not role:
            raise
        raise type(error)(f"the model of the role '{role}': {error.message}", hint=error.hint) from error


def _purpose(role: Role) -> str:
    return f" ({role.help})" if role.help else ""


def stages_with(pipeline: Pipeline, named: Collection[str]) -> tuple[Stage, ...]:
    """The stages of a run that has models for the roles `named`: without stages of other roles and their dependents."""
    stages, left_out = stages_of(pipeline), set[str]()
    for stage in stages:
        if stage.role not in ("", *named) or not left_out.isdisjoint(stage.after):
            left_out.add(stage.name)
    return tuple(stage for stage in stages if stage.name not in left_out)


def stages_of_run(run: Run, pipeline: Pipeline) -> tuple[Stage, ...]:
    """The stages of a run, which depend on the models that it names. Raises CannotRun when one asks another model."""
    stages = stages_with(pipeline, run.models)
    for stage in stages:
        if missing := [role for role in stage.roles if role not in run.models]:
            raise CannotRun(
                f"{run.id} names no model for '{missing[0]}', which its stage '{stage.name}' asks",
                hint="is it a run of another version of the pipeline? submit it anew",
            )
    return stages


def embedding_roles(pipeline: Pipeline) -> set[str]:
    """The roles whose models embed texts."""
    return {name for name, role in roles_of(pipeline).items() if role.embeds}


def with_grader(inputs: Inputs, pipeline: Pipeline, named: Collection[str]) -> Inputs:
    """The inputs, with the grader that the roles `named` suggest for the outputs; the last that has one decides.

    Raises CannotRun when no grader of that name is installed: it would be told only when all is answered.
    """
    graders = [role.grader for name, role in roles_of(pipeline).items() if name in named and role.grader]
    grader = graders[-1] if graders else inputs.about.get("grader", "")
    if isinstance(grader, str) and grader and grader not in (known := installed.names("graders")):
        raise CannotRun(
            f"{installed.origin(pipeline).title} names the grader '{grader:.100}', which is not installed here",
            hint=nearest(grader[:100], known),
        )
    return replace(inputs, about={**inputs.about, "grader": grader}) if graders else inputs


def root_of(stage: Stage, stages: Mapping[str, Stage]) -> str:
    """The earliest stage with the same role that a stage depends on, directly or not; "" when there is none."""
    for name in stage.after:
        if stages[name].role == stage.role:
            return root_of(stages[name], stages) or name
    return next((root for name in stage.after if (root := _root_beyond(stages[name], stage.role, stages))), "")


def _root_beyond(stage: Stage, role: str, stages: Mapping[str, Stage]) -> str:
    return root_of(replace(stage, role=role), stages)

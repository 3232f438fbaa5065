"""What a worker's machine can open for a run, and why another machine has to execute a stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from hybrid.canonical import Json
from hybrid.errors import CannotRun, HybridError, Temporary, UsageError, Waits
from hybrid.execution.chain import Bound
from hybrid.execution.sides import asked_on
from hybrid.folder.runs import Run
from hybrid.machine import nvidia
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Backend, Pipeline, Stage


class Capabilities(Protocol):
    """What this machine can open for a run."""

    def pipeline(self, run: Run) -> Pipeline:
        """The installed pipeline with the run's settings. Raises UsageError, BadData."""
        ...

    def digest(self, run: Run, role: str) -> str:
        """The digest of the run's model of that role as it is here. Raises CannotRun, UsageError."""
        ...

    def options(self, run: Run, role: str) -> Mapping[str, str]:
        """The options of that model's backend on this machine. Raises UsageError."""
        ...

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        """That model, loaded; with `trains`, so that it can be trained. Raises CannotRun, UsageError."""
        ...

    def gauges(self) -> Mapping[str, Json]:
        """Measurements of this machine: GPU memory, free disk."""
        ...


@dataclass(frozen=True, slots=True)
class RunState:
    """The status of a run for this worker. `error` says why this worker cannot finish it."""

    state: str  # done, cancelled, other side, held, unfinished, refused
    words: str
    error: HybridError | None = None
    failed: int = 0
    side: str = ""  # which side it waits for

    @property
    def waits(self) -> bool:
        """Whether it goes on by itself when the other side has done its part, or a server that is away is back."""
        return self.state == "other side" or isinstance(self.error, (Temporary, Waits))


def elsewhere(
    here: Capabilities, chain: Bound, stage: Stage, sides: Collection[str], roles: Collection[str]
) -> RunState | None:
    """The state that says why another machine has to execute a stage, or those `roles` of it that are of these `sides`;
    None when this one can.

    Raises CannotRun and UsageError when no model that stages of these sides ask can be opened here.
    """
    if stage.side not in ("any", *sides):
        words = f"waits for the {stage.side} side to do the stage '{stage.name}'"
        return RunState("other side", words, side=stage.side)
    if not stage.asks_a_model or len(chain.run.models) == 1:
        return None
    return next((away for role in roles if (away := _model_elsewhere(here, chain, stage, role, sides))), None)


def _model_elsewhere(
    here: Capabilities, chain: Bound, stage: Stage, role: str, sides: Collection[str]
) -> RunState | None:
    try:
        here.digest(chain.run, role)
    except (CannotRun, UsageError) as error:
        others = [other for other in asked_on(chain.stages, ("any", *sides)) if other != role]
        if not any(_can_open(here, chain.run, other) for other in others):
            raise
        name = clean_line(chain.run.models[role].name, 200)
        called = f"'{name}' ({role})" if role else f"'{name}'"
        words = f"waits for a machine with the model {called} to do the stage '{stage.name}': {error.message}"
        return RunState("other side", words, error)
    return None


def refuse_other_models(
    here: Capabilities, run: Run, stage: Stage, digests: Mapping[str, str], roles: Collection[str]
) -> None:
    """Raise CannotRun when a model of one of the `roles` is not the one here that a stage is bound to (`digests`)."""
    for role, bound_to in digests.items():
        if role in stage.roles and role in roles and (own := here.digest(run, role)) != bound_to:
            name = run.models[role].name
            raise CannotRun(
                f"{run.id} was begun with the model {bound_to[:12]}; {name} on this machine is {own[:12]}",
                hint="bring the same files of the model here, or submit the run anew, say with another --seed",
            )


def device_of(engine: Backend) -> str:
    """The device that an engine computes on, as it reports it; "" when it does not."""
    return clean_line(str(engine.model.about.get("device") or ""), 100)


def silent_cpu(device: str, sides: Collection[str]) -> str:
    """Why a worker for the GPU side alone computes on the CPU, in one line; "" when it does not."""
    if device != "cpu" or set(sides) != {"gpu"}:
        return ""
    if not (found := nvidia.gpus()):
        why = "nvidia-smi lists no GPU here"
    elif nvidia.hidden():
        why = f"CUDA_VISIBLE_DEVICES hides the GPU {found[0]}"
    else:
        why = f"the backend does not use the GPU {found[0]}: by its options, or its library is built without CUDA"
    return f"on the CPU, though this worker is for the GPU side: {why}"


def _can_open(here: Capabilities, run: Run, role: str) -> bool:
    try:
        here.digest(run, role)
    except HybridError:
        return False
    return True

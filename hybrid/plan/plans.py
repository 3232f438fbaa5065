"""The plan of a run: what each of its stages needs and takes on each GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from hybrid.backends.registry import NOTHING_TO_LOAD
from hybrid.errors import CannotRun
from hybrid.execution.roles import refuse_missing, stages_with
from hybrid.loads import RoundsLoad
from hybrid.plan.counting import TokenCounter, counter_of
from hybrid.plan.gpus import Gpu
from hybrid.plan.measured import Measured, by_measurement
from hybrid.plan.memory import CONTEXT, Line, Needs, needs_of
from hybrid.plan.shapes import ModelShape, shape_of
from hybrid.plan.speed import NO_TIME, Span, answering, computing, rounds, starting, training
from hybrid.plan.training_memory import adapter_parameters, classifier_needs, policy_needs, training_needs
from hybrid.plan.training_texts import TrainingTexts
from hybrid.plan.workload import RoleLoad, StageLoad, loads_of
from hybrid.plugins.faults import inputs_of
from hybrid.protocols import Pipeline, Stage

CLASSIFIER = "classifier"
ANSWERING = ("transformers", "vllm", "llamacpp", "ollama")
PLANNED = (*ANSWERING, CLASSIFIER)
"""Backends whose memory and time are planned, and those that answer requests."""


class Chosen(Protocol):
    """A model as the command line names it."""

    @property
    def backend(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def options(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan is made by. `exact`: the tokens of all prompts are counted, however many there are. `past`: what
    earlier runs with the first model measured, by the name of the GPU.
    """

    exact: bool = False
    past: Mapping[str, Measured] = field(default_factory=dict)


BASIS = Basis()


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a model of a role takes on a GPU for one phase of a stage, and how long it computes."""

    role: str
    model: str
    needs: Needs
    seconds: Span


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a stage whose models are in memory together: "answering", "training", or "rounds"."""

    name: str
    models: tuple[ModelPlan, ...]

    @property
    def bytes(self) -> int:
        return sum(one.needs.total for one in self.models)

    @property
    def most(self) -> int:
        """Bytes that they may take."""
        return min((one.needs.most for one in self.models), default=0)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage on a GPU: its phases, which follow each other."""

    load: StageLoad
    phases: tuple[Phase, ...]

    @property
    def seconds(self) -> Span:
        return sum((one.seconds for phase in self.phases for one in phase.models), NO_TIME)

    def shared(self, workers: int) -> Span:
        """The same with its items divided among workers; one computes all rounds of a loop."""
        share = 1 / (1 if self.load.rounds else min(workers, max(1, self.load.items)))
        return self.seconds.times(share, share)

    @property
    def largest(self) -> Phase | None:
        """The phase that needs the most memory."""
        return max((one for one in self.phases if one.models), key=lambda one: one.bytes, default=None)

    @property
    def bytes(self) -> int:
        return self.largest.bytes if self.largest else 0

    @property
    def fits(self) -> bool:
        return all(phase.bytes <= phase.most for phase in self.phases if phase.models)


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """A run on a GPU. `start`: of all engines, each once. `refusal`: why it cannot run there at all. `measured`:
    the earlier runs that the time of answers is corrected by.
    """

    gpu: Gpu
    stages: tuple[StagePlan, ...]
    start: Span
    refusal: str = ""
    measured: Measured | None = None

    @property
    def fits(self) -> bool:
        return not self.refusal and all(one.fits for one in self.stages)

    @property
    def largest(self) -> StagePlan | None:
        """The stage that needs the most memory."""
        return max((one for one in self.stages if one.largest), key=lambda one: one.bytes, default=None)

    @property
    def seconds(self) -> Span:
        """All stages one after another, with their engines' starts."""
        return self.shared(1)

    def shared(self, workers: int) -> Span:
        """The same by so many workers at once, each with such a GPU of its own and its own engines to start."""
        return sum((one.shared(workers) for one in self.stages), self.start)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run: the loads of its stages, the shapes of its models by role (or why one is not known), and each GPU."""

    pipeline: str
    tasks: int
    loads: tuple[StageLoad, ...]
    shapes: Mapping[str, ModelShape | str]
    gpus: tuple[GpuPlan, ...]
    models: Mapping[str, Chosen]

    @property
    def items(self) -> int:
        return sum(one.items for one in self.loads)

    def tokens(self) -> tuple[int, int]:
        """Tokens in, and the bound of tokens out, of all stages."""
        each = [one.tokens() for one in self.loads]
        return sum(one for one, _ in each), sum(one for _, one in each)

    @property
    def is_bound(self) -> bool:
        """Whether some counts are bounds."""
        return any(one.bound for one in self.loads)


def plan_run(
    name: str, pipeline: Pipeline, models: Mapping[str, Chosen], gpus: Sequence[Gpu], basis: Basis = BASIS
) -> RunPlan:
    """The plan of a pipeline with these settings and models on each of the GPUs. Nothing is loaded or written.

    Raises HybridError where a run would before its model is loaded.
    """
    refuse_missing(pipeline, models)
    tasks = inputs_of(pipeline).tasks
    return plan_stages(name, pipeline, stages_with(pipeline, models), tasks, models, gpus, basis)


def plan_stages(
    name: str,
    pipeline: Pipeline,
    stages: Sequence[Stage],
    tasks: Mapping[str, Any],
    models: Mapping[str, Chosen],
    gpus: Sequence[Gpu],
    basis: Basis = BASIS,
) -> RunPlan:
    """The plan of these stages of a pipeline on tasks that are known. Raises HybridError."""
    shapes = {role: _shape(one) for role, one in models.items()}

    @cache
    def counter(role: str) -> TokenCounter:
        return counter_of(models[role].model)

    loads = loads_of(pipeline, stages, tasks, counter, exact=basis.exact)
    made = tuple(_on(gpu, loads, models, shapes, basis.past) for gpu in gpus)
    return RunPlan(name, len(tasks), tuple(loads), shapes, made, models)


def _shape(one: Chosen) -> ModelShape | str:
    if one.backend in NOTHING_TO_LOAD or one.backend not in PLANNED:
        return f"the backend '{one.backend}' is not planned"
    try:
        return shape_of(one.model)
    except CannotRun as error:
        return f"{error.message} ({error.hint})"


def _on(
    gpu: Gpu,
    loads: Sequence[StageLoad],
    models: Mapping[str, Chosen],
    shapes: Mapping[str, ModelShape | str],
    past: Mapping[str, Measured],
) -> GpuPlan:
    known = {role: shape for role, shape in shapes.items() if isinstance(shape, ModelShape)}
    measured = past.get(gpu.name)
    stages = tuple(StagePlan(load, tuple(_phases(gpu, load, models, known, measured))) for load in loads)
    started: dict[str, Span] = {}
    for one in (one for stage in stages for phase in stage.phases for one in phase.models):
        started[one.role] = starting(models[one.role].backend, one.needs)
    return GpuPlan(gpu, stages, sum(started.values(), NO_TIME), _refusal(gpu, models, loads), measured)


def _phases(
    gpu: Gpu,
    load: StageLoad,
    models: Mapping[str, Chosen],
    shapes: Mapping[str, ModelShape],
    measured: Measured | None,
) -> Iterator[Phase]:
    role = load.stage.role
    if load.texts and role in shapes:
        yield Phase("training", (_training(gpu, load, load.texts, models[role], shapes[role]),))
    if load.rounds:
        yield Phase("rounds", tuple(_rounds(gpu, load.rounds, role, models[role], shapes.get(role))))
    asked = [one for one in load.roles if one.role in shapes and models[one.role].backend in ANSWERING]
    yield Phase("answering", tuple(_answering(gpu, one, models, shapes, measured) for one in asked))


def _answering(
    gpu: Gpu,
    load: RoleLoad,
    models: Mapping[str, Chosen],
    shapes: Mapping[str, ModelShape],
    measured: Measured | None,
) -> ModelPlan:
    chosen, shape = models[load.role], shapes[load.role]
    needs = needs_of(chosen.backend, shape, chosen.options, gpu, load)
    if measured and not load.role:
        seconds = by_measurement(chosen.backend, shape, needs, gpu, load, measured)
    else:
        seconds = answering(chosen.backend, shape, needs, gpu, load)
    return ModelPlan(load.role, chosen.model, needs, seconds)


def _training(gpu: Gpu, load: StageLoad, texts: TrainingTexts, chosen: Chosen, shape: ModelShape) -> ModelPlan:
    """Of the largest rank, and all layers that some training changes."""
    tunings = [one for one, _ in load.trainings]
    rank = max(one.rank for one in tunings)
    targets = sorted({target for one in tunings for target in one.targets})
    needs, plan = training_needs(shape, texts, (rank, targets), chosen.options, gpu, chosen.backend)
    seconds = training(shape, texts, adapter_parameters(shape, rank, targets), plan, gpu)
    return ModelPlan(load.stage.role, chosen.model, needs, seconds)


def _rounds(gpu: Gpu, load: RoundsLoad, role: str, chosen: Chosen, shape: ModelShape | None) -> Iterator[ModelPlan]:
    """What loops hold and compute: policies over the run's model, or a model of their own."""
    if load.memory:
        lines = tuple(Line(name, size) for name, size in load.memory.items())
        most = gpu.memory if gpu.is_cpu else gpu.memory - CONTEXT
        yield ModelPlan(role, chosen.model, Needs(lines, most), computing(load, gpu))
    elif shape and load.tuning:
        plan = classifier_needs if chosen.backend == CLASSIFIER else policy_needs
        needs = plan(shape, load.models, load.tuning, load.longest, chosen.options, gpu)
        rank, targets = load.tuning.rank, load.tuning.targets
        parameters = adapter_parameters(shape, rank, targets) if rank else shape.parameters
        yield ModelPlan(role, chosen.model, needs, rounds(shape, load, parameters, gpu))


def _refusal(gpu: Gpu, models: Mapping[str, Chosen], loads: Sequence[StageLoad]) -> str:
    """Why a device cannot run this at all; "" where it can."""
    asked = {one.role for load in loads for one in load.roles}
    backends = {models[role].backend for role in asked}
    if gpu.too_old and backends & {"transformers", "vllm"}:
        return "current torch and vLLM have no code for it (compute capability {}.{})".format(*gpu.capability)
    return ""

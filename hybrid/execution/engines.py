"""Opens the engine that a stage needs, and keeps it open for the next stage if that needs the same one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Protocol, Self

from hybrid.backends.derived import DerivedBackend
from hybrid.canonical import digest as digest_of
from hybrid.execution.ensemble import Elsewhere, Ensemble
from hybrid.execution.loop_engine import LoopEngine, Shelves
from hybrid.folder.runs import Run
from hybrid.protocols import Backend, Stage, Tensors, Training, TrainingBackend
from hybrid.tuning import Tuning
from hybrid.work import Derive, Rounds, Tune


class Opening(Protocol):
    """Opens the model of a role of a run; with `trains`, so that it can be trained. Raises HybridError."""

    def __call__(self, role: str, *, trains: bool) -> Backend: ...


class Engines:
    """The open engines: those of one stage at a time, because a machine has one GPU. `together` enforces that.

    A stage asks one model; a search asks for those of all of its roles together.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], Backend] = {}
        self._prepared: object = None  # the stage that the open engine was prepared for

    def get(self, wanted: tuple[str, ...], make: Callable[[], Backend]) -> Backend:
        """The engine named `wanted`; when it is not open, others are closed and `make` opens it."""
        return self.together({wanted: make})[wanted]

    def together(self, wanted: Mapping[tuple[str, ...], Callable[[], Backend]]) -> dict[tuple[str, ...], Backend]:
        """The engines of these names; when one is not open, others are closed and its function opens it."""
        if not wanted.keys() <= self._open.keys():
            self._prepared = None
            for name in self._open.keys() - wanted.keys():
                self._open.pop(name).close()
        for name, make in wanted.items():
            if name not in self._open:
                self._open[name] = make()
        return {name: self._open[name] for name in wanted}

    def prepare(self, engine: TrainingBackend, stage: object, training: Training) -> None:
        """Prepare the open engine for the training of a stage, unless it is prepared for that stage already."""
        if self._prepared != stage:
            self._prepared = None
            engine.prepare(training)
            self._prepared = stage

    def close(self) -> None:
        """Close every open engine."""
        self._prepared = None
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def trained_roles(stages: Sequence[Stage]) -> set[str]:
    """The roles whose models a pipeline trains.

    Every stage of such a role opens its model for training, because its requests may name an adapter of the run.
    """
    return {stage.role for stage in stages if isinstance(stage.work, Tune)}


def needs_tensors(stage: Stage, stages: Sequence[Stage]) -> bool:
    """Whether a stage keeps state of training, or its requests may name what another of the stages trained."""
    return isinstance(stage.work, Rounds) or stage.role in trained_roles(stages)


def ensemble_for(
    engines: Engines,
    run: Run,
    stage: Stage,
    make: Opening,
    options: Callable[[str], Mapping[str, str]],
    roles: Collection[str] | None = None,
) -> Ensemble:
    """The engines of a search, one for each of its roles, or of the `roles` that are answered here.

    `options` are those of a role's backend on this machine.
    """
    here = [role for role in stage.roles if roles is None or role in roles]
    names = {role: _model_of(run, role, options(role)) for role in here}
    found = engines.together({name: partial(make, role, trains=False) for role, name in names.items()})
    first: Backend
    if stage.role in names:
        first = found[names[stage.role]]
    else:
        bound = run.bound_model(stage.name)
        first = Elsewhere(str(bound.get("name", "")), run.model_digest(stage.name), bound.get("about"))
    return Ensemble(first, {role: found[name] for role, name in names.items() if role != stage.role})


def _model_of(run: Run, role: str, options: Mapping[str, str]) -> tuple[str, ...]:
    named = run.models[role]
    return named.backend, named.name, *chain.from_iterable(sorted(options.items()))


def engine_for(
    engines: Engines,
    run: Run,
    stage: Stage,
    digest: str,
    tensors: Tensors | None,
    make: Opening,
    options: Mapping[str, str],
    segments: Shelves | None = None,
) -> Backend:
    """The engine of a stage, prepared for what the stage trains; an open engine is used again if it fits.

    `digest` is that of the model whose records count. `tensors` is the store for the state of training, None for a
    stage whose model is not trained. `make` opens a model of the run, with `options` of this machine. `segments` is for
    stages of rounds.
    """
    named = run.models[stage.role]
    if isinstance(stage.work, Derive):
        return DerivedBackend(named.name, digest)
    model = _model_of(run, stage.role, options)
    if tensors is None:
        return engines.get(model, lambda: make(stage.role, trains=False))
    if isinstance(stage.work, Rounds):
        return LoopEngine(engines.get(model, lambda: make(stage.role, trains=False)), tensors, segments)
    training, trained = Training(tensors), list[object]()
    if isinstance(stage.work, Tune):
        tasks = run.tasks()
        trainings = _trainings(stage, tasks)
        training = Training(tensors, partial(stage.work.examples, tasks), tuple(trainings.values()))
        trained = [stage.name, digest_of(list(trainings))]  # the trainings of a dependent stage may change
    engine = engines.get((*model, "trained"), lambda: make(stage.role, trains=True))
    if isinstance(engine, TrainingBackend):
        engines.prepare(engine, [run.id, *trained], training)
    return engine


def _trainings(stage: Stage, tasks: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Tuning, str]]:
    """The distinct trainings that a stage's requests need, in order, by the digests of tuning and starting adapter."""
    found: dict[tuple[str, str], tuple[Tuning, str]] = {}
    for item in stage.items(tasks):
        if tuning := item.request.tuning:
            start = item.request.adapter.digest if item.request.adapter else ""
            found.setdefault((tuning.digest, start), (tuning, start))
    return found

"""Which engine a stage needs, opened once for all consecutive stages that need the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Protocol, Self

from hybrid.backends import registry
from hybrid.backends.derived import DerivedBackend
from hybrid.canonical import digest as digest_of
from hybrid.folder.runs import Run
from hybrid.protocols import Backend, Stage, Tensors, Training, TrainingBackend
from hybrid.tuning import Tuning
from hybrid.work import Derive, Tune


def opened(backend: str, model: str, options: Mapping[str, str], *, trains: bool) -> Backend:
    """A model loaded in a backend, with `trains` so that it can be trained. Raises UsageError, CannotRun."""
    return (registry.open_tuned if trains else registry.open_backend)(backend, model, options)


class Opening(Protocol):
    """Opens the model of a role of a run, with `trains` so that it can be trained. Raises HybridError."""

    def __call__(self, role: str, *, trains: bool) -> Backend: ...


class Engines:
    """The engines that are open.

    There is one GPU, so one at a time: whatever else is open is closed before another is opened. A stage that needs two
    models at once (a search, with a chat model and an embedder) will ask for both together; only `get` knows the limit.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, ...], Backend] = {}
        self._prepared: object = None  # for which stage the open engine was made ready

    def get(self, wanted: tuple[str, ...], make: Callable[[], Backend]) -> Backend:
        """The engine that goes by the name `wanted`, opened with `make` when it is not open."""
        if wanted not in self._open:
            self.close()
            self._open[wanted] = make()
        return self._open[wanted]

    def prepare(self, engine: TrainingBackend, stage: object, training: Training) -> None:
        """Tell the open engine what a stage trains, unless that was the last thing that it was told."""
        if self._prepared != stage:
            self._prepared = None
            engine.prepare(training)
            self._prepared = stage

    def close(self) -> None:
        """Free what is open."""
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
    """The roles whose models a pipeline trains: each stage that asks such a model has it opened so, since any of its
    requests may name an adapter of the run.
    """
    return {stage.role for stage in stages if isinstance(stage.work, Tune)}


def engine_for(
    engines: Engines,
    run: Run,
    stage: Stage,
    digest: str,
    tensors: Tensors | None,
    make: Opening,
    options: Mapping[str, str],
) -> Backend:
    """The engine of a stage whose records are of the model `digest`. `tensors`: where training keeps its state, None
    for a stage whose model is not trained. `make` opens a model of the run, with `options` of this machine. An engine
    that is open and fits is taken, and told what the stage trains.
    """
    named = run.models[stage.role]
    if isinstance(stage.work, Derive):
        return DerivedBackend(named.name, digest)
    model = named.backend, named.name, *chain.from_iterable(sorted(options.items()))
    if tensors is None:
        return engines.get(model, lambda: make(stage.role, trains=False))
    training, trained = Training(tensors), list[object]()
    if isinstance(stage.work, Tune):
        tasks = run.tasks()
        trainings = _trainings(stage, tasks)
        training = Training(tensors, partial(stage.work.examples, tasks), tuple(trainings.values()))
        trained = [stage.name, digest_of(list(trainings))]  # a stage whose items are made anew has others
    engine = engines.get((*model, "trained"), lambda: make(stage.role, trains=True))
    if isinstance(engine, TrainingBackend):
        engines.prepare(engine, [run.id, *trained], training)
    return engine


def _trainings(stage: Stage, tasks: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Tuning, str]]:
    """The different trainings that a stage's requests ask for, in order, by the digests of tuning and adapter."""
    found: dict[tuple[str, str], tuple[Tuning, str]] = {}
    for item in stage.items(tasks):
        if tuning := item.request.tuning:
            start = item.request.adapter.digest if item.request.adapter else ""
            found.setdefault((tuning.digest, start), (tuning, start))
    return found

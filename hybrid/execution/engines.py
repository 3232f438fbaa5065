"""Which engine a stage needs, and one of them open at a time: there is one GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from hybrid.backends import registry
from hybrid.backends.derived import DerivedBackend
from hybrid.canonical import Json
from hybrid.canonical import digest as digest_of
from hybrid.folder.runs import Run
from hybrid.protocols import Backend, Stage, Tensors
from hybrid.records import Lesson
from hybrid.tuning import Tuning

Lessons = Callable[[Mapping[str, Json]], Sequence[Lesson]]


@dataclass(frozen=True, slots=True)
class Training:
    """What an engine needs that trains before it answers, or answers with what was trained: where that is kept.

    For a stage whose requests have tunings, `lessons` makes the texts of one, and `trainings` are all of them, each
    once, in the order of the items, with the digest of the adapter that it starts from, "" for none.
    """

    tensors: Tensors
    lessons: Lessons | None = None
    trainings: tuple[tuple[Tuning, str], ...] = ()


def opened(backend: str, model: str, options: Mapping[str, str], training: Training | None) -> Backend:
    """A model loaded in a backend, so that it can be trained when `training` is given. Raises UsageError, CannotRun."""
    if training is None:
        return registry.open_backend(backend, model, options)
    return registry.open_tuned(backend, model, options, training.lessons, training.tensors, training.trainings)


class OneEngine:
    """The engine that is open now; closed before another is opened, and at the end."""

    def __init__(self) -> None:
        self._open: tuple[tuple[str, ...], Backend] | None = None

    def get(self, wanted: tuple[str, ...], make: Callable[[], Backend]) -> Backend:
        """The engine that goes by the name `wanted`, made when it is not the open one."""
        if self._open and self._open[0] != wanted:
            self.close()
        if self._open is None:
            self._open = wanted, make()
        return self._open[1]

    def close(self) -> None:
        """Free what is open."""
        if self._open:
            engine, self._open = self._open[1], None
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def trains(stages: Sequence[Stage]) -> bool:
    """Whether a pipeline trains: then each of its stages that asks a model is opened so, since any of its requests may
    name an adapter of the run.
    """
    return any(stage.lessons for stage in stages)


def engine_for(
    engines: OneEngine,
    run: Run,
    stage: Stage,
    digest: str,
    tensors: Tensors | None,
    make: Callable[[Training | None], Backend],
) -> Backend:
    """The engine of a stage whose records are of the model `digest`. `tensors`: where a pipeline that trains keeps its
    state, None for one that does not. `make` opens the run's model. An engine that is open and fits is taken.
    """
    if stage.derived:
        return DerivedBackend(str(run.spec["model"]), digest)
    model = str(run.spec["backend"]), str(run.spec["model"])
    if tensors is None:
        return engines.get(model, lambda: make(None))
    if stage.lessons is None:
        return engines.get((*model, run.id), lambda: make(Training(tensors)))
    tasks = run.tasks()
    trainings = _trainings(stage, tasks)
    training = Training(tensors, partial(stage.lessons, tasks), tuple(trainings.values()))
    name = *model, run.id, stage.name, digest_of(list(trainings))  # a stage whose items are made anew has others
    return engines.get(name, lambda: make(training))


def _trainings(stage: Stage, tasks: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Tuning, str]]:
    """The different trainings that a stage's requests ask for, in order, by the digests of tuning and adapter."""
    found: dict[tuple[str, str], tuple[Tuning, str]] = {}
    for item in stage.items(tasks):
        if tuning := item.request.tuning:
            start = item.request.adapter.digest if item.request.adapter else ""
            found.setdefault((tuning.digest, start), (tuning, start))
    return found

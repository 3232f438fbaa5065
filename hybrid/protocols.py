"""What a pipeline, a stage, a backend and a grader must have. A frozen dataclass that has it is one.

The fields of a pipeline or grader are its settings (`--set name=value`), its docstring is its help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from hybrid.canonical import Json
from hybrid.records import Completion, Failure, Grade, Item, Lesson, Output, Question, Request

Side = Literal["gpu", "laptop", "any"]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run works on, frozen when it is submitted.

    `tasks` is handed to the stages; `references` (question id -> truth) is not: it meets the records when
    outputs.json is assembled, so nothing that generates or trains can see it.
    """

    tasks: Mapping[str, Any]
    references: Mapping[str, Any]
    about: Mapping[str, Any]  # where the data came from: names, versions, digests


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a pipeline: turns the tasks into items, in an order that is the same every time.

    Raise `version` when the same item would now give another record: old records are then not reused.

    A stage that comes `after` others makes its items of their outputs too, once all their items have a record: it is
    called as `items(tasks, earlier)`, `earlier` being name -> outputs in the order of outputs.json. These hold no
    reference unless the stage `judges`. The items of a `derived` stage are made of the earlier outputs alone: the
    prompt of the request is the text of the record, and no model is asked.

    A stage whose requests have a `tuning` says with `lessons(tasks, tuning.lessons)` which texts are trained on. It is
    called in another process, so it must be a method of the pipeline or a function of a module.
    """

    name: str
    side: Side
    version: int
    items: Callable[..., Iterable[Item]]
    after: tuple[str, ...] = ()
    judges: bool = False
    derived: bool = False
    lessons: Callable[[Mapping[str, Any], Mapping[str, Json]], Sequence[Lesson]] | None = None

    @property
    def identity(self) -> str:
        """Name and version, as they enter every item's key."""
        return f"{self.name}/{self.version}"


@runtime_checkable
class Pipeline(Protocol):
    """One experiment."""

    def inputs(self) -> Inputs:
        """Read and freeze the data, on the submitting machine. Raises HybridError when it is not to be had."""
        ...

    def stages(self) -> tuple[Stage, ...]:
        """The steps in order."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """Which model answers, to the byte. `digest` goes into every item's key, `about` into the records' provenance."""

    name: str
    digest: str
    context: int  # tokens of prompt and completion together
    about: Mapping[str, Any]  # engine, version, dtype, device, chat template digest


class Backend(Protocol):
    """A model engine. Opened once, used from one thread, closed at the end."""

    @property
    def model(self) -> Model:
        """What is loaded."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion a request, as they finish, in any order; pull requests only as capacity frees.

        One bad request (too long, bad schema) is an error completion; a dead engine raises HybridError.
        """
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


class Tensors(Protocol):
    """Where training keeps what must outlive this machine: checkpoints and adapters, as bytes (safetensors)."""

    def keep(self, name: str, number: int, data: bytes) -> None:
        """Keep `data` under a name (64 hex digits) and a number, which grows: safe on this machine's disk on return,
        in the folder when it can be carried. Of a name only the highest number is needed any more.

        Raises Temporary when there is no room.
        """
        ...

    def newest(self, name: str) -> tuple[int, bytes] | None:
        """The highest number under `name` whose bytes verify, and these; None when there is none here and now."""
        ...


Vector = tuple[float, ...]
"""The embedding of a text, of length 1."""


class Embedder(Protocol):
    """A model that turns texts into vectors. Opened once, used from one thread, closed at the end."""

    @property
    def model(self) -> Model:
        """What is loaded."""
        ...

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """One vector a text, in the order of the texts; a text that cannot be embedded whole is a failure.

        All vectors have the same number of dimensions. A dead engine raises HybridError.
        """
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


@runtime_checkable
class OutputGrader(Protocol):
    """Judges each output alone; a question's score is the mean over its outputs."""

    def grade(self, output: Output) -> Grade:
        """Judge one output that has a text. Must not raise on any text."""
        ...


@runtime_checkable
class QuestionGrader(Protocol):
    """Judges all outputs of a question together, as voting does."""

    def grade_question(self, question: Question) -> Grade:
        """Judge one question; outputs without a text are among them. Must not raise on any text."""
        ...


class Watcher(Protocol):
    """Is told how far a grader is that asks a model."""

    def started(self, stage: str, total: int, done: int) -> None:
        """`done` of `total` distinct calls are known from before."""
        ...

    def working(self) -> None:
        """The model is loaded."""
        ...

    def finished_item(self, completion: Completion) -> None:
        """One call came back."""
        ...

    def ended(self) -> None:
        """No more calls."""
        ...


@runtime_checkable
class ReadyGrader(OutputGrader, Protocol):
    """A grader that knows all that it needs from its model."""

    def about(self) -> Mapping[str, Json]:
        """What judged: the model to the byte, how it was asked, how often, and what is known of its errors."""
        ...


@runtime_checkable
class ModelGrader(Protocol):
    """Judges with a model: sees all outputs once before the first grade, so that many calls are in flight at a time."""

    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> AbstractContextManager[ReadyGrader]:
        """Ask the model what it is needed for. What it said is kept at once, and not asked again by the same command.

        Raises HybridError when the model is not to be had; NotFinished on Ctrl-C.
        """
        ...


Grader = OutputGrader | QuestionGrader | ModelGrader

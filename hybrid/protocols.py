"""What a pipeline, a stage, a backend and a grader must have. A frozen dataclass that has it is one.

The fields of a pipeline or grader are its settings (`--set name=value`), its docstring is its help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from hybrid.records import Completion, Grade, Item, Output, Question, Request

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
    """

    name: str
    side: Side
    version: int
    items: Callable[[Mapping[str, Any]], Iterable[Item]]

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


Grader = OutputGrader | QuestionGrader

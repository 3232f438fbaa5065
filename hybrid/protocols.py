"""What a pipeline, a stage, a backend and a grader must have. A frozen dataclass that has it is one.

The fields of a pipeline or grader are its settings (`--set name=value`), its docstring is its help.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from hybrid.canonical import Json
from hybrid.earlier_stages import taking_earlier_arguments
from hybrid.loads import Foreseen, GuideTable, RoundsLoad
from hybrid.loops import Segment
from hybrid.metrics import Measured, RoundMetrics
from hybrid.records import Completion, Example, Failure, Grade, Item, Output, Question, Request
from hybrid.tuning import Tuning
from hybrid.work import Ask, Derive, Rounds, Search, Work, item_of, maker_of

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


@taking_earlier_arguments
@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a pipeline: one kind of work (`Ask`, `Tune`, `Derive`, `Search` or `Rounds`), on one side.

    What its function makes of the tasks is the same every time, in the same order. Raise `version` when the same item
    would now give another record: old records are then not reused.

    A stage that comes `after` others makes its items of their outputs too, once all their items have a record: its
    function is called with (tasks, earlier), `earlier` being name -> outputs in the order of outputs.json. These hold
    no reference unless the stage `reads_references`. `role` says which of the run's models is asked, "" for the first.
    """

    name: str
    side: Side
    version: int
    work: Work
    after: tuple[str, ...] = ()
    role: str = ""
    reads_references: bool = False

    def __post_init__(self) -> None:
        if self.side not in get_args(Side):
            raise ValueError(
                f"the stage '{self.name}' has the side '{self.side}'; a side is {' or '.join(get_args(Side))}"
            )

    def items(self, *given: Any) -> Iterable[Item]:
        """What the stage's function makes of the tasks, and of earlier outputs, as items, whatever its kind of work.

        Of a search these are the items that are known so far: those that were answered, and those that it waits for.
        """
        if isinstance(self.work, Ask):  # there may be millions, and they are items already
            return self.work.items(*given)
        if isinstance(self.work, Search):
            return (self.work.reached or self.work.first_items)(*given)
        if isinstance(self.work, Rounds):
            return chain.from_iterable(series.items() for series in self.work.series(*given))
        return map(item_of, maker_of(self.work)(*given))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all models that it may ask, its own first."""
        further = self.work.roles if isinstance(self.work, Search) else ()
        return tuple(dict.fromkeys((self.role, *further)))

    @property
    def asks_a_model(self) -> bool:
        """Whether a model has to be opened for it."""
        return not isinstance(self.work, Derive)

    @property
    def identity(self) -> str:
        """Name and version, as they enter every item's key."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Role:
    """A further model that a pipeline asks, named `--model ROLE=NAME`: `roles: ClassVar[Mapping[str, Role]]`.

    `backend` runs it when none is named, "" being that of the first model, and `model` is the one that is taken when
    none is named, "" being none. Without an `optional` model the stages that ask it are left out, and those that come
    after them. With it, `grader` judges the outputs, "" being the usual one. A model that `embeds` answers requests
    with `embed` alone, and its backend is an embedder.
    """

    help: str
    backend: str = ""
    optional: bool = False
    grader: str = ""
    model: str = ""
    embeds: bool = False


@runtime_checkable
class Pipeline(Protocol):
    """One experiment. A class attribute `roles` declares models beside the first one (`Role`)."""

    def inputs(self) -> Inputs:
        """Read and freeze the data, on the submitting machine. Raises HybridError when it is not to be had."""
        ...

    def stages(self) -> tuple[Stage, ...]:
        """The steps in order."""
        ...


@runtime_checkable
class MakesPages(Protocol):
    """A pipeline that writes files for people beside outputs.json."""

    def pages(
        self, tasks: Mapping[str, Any], outputs: Iterable[Output], models: Sequence[str]
    ) -> Mapping[str, str | Iterable[str]]:
        """Name (`kept.md`; .txt, .csv and .json are allowed, too) -> text, or its parts one after another. `models`:
        the names of the models that made the outputs.

        Its first line is the same every time: by it the file is known again and may be replaced; of JSON it has to say
        more than `{`. It stands whole in the first part. What models wrote is hostile in these as on any page.
        """
        ...


@runtime_checkable
class Planned(Protocol):
    """A pipeline that can tell before a run what those of its stages will ask for whose items are not known yet."""

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> Iterable[Foreseen] | RoundsLoad | None:
        """Of a stage of rounds its load, of another one its items, at most; None: it cannot be told.

        Asked of stages that come after others, of searches and of rounds. It is for `hybrid plan` alone, so it may
        repeat one item for many that are like it, and is fast.
        """
        ...


@runtime_checkable
class Guided(Protocol):
    """A pipeline whose system has a guide with tables of memory, time or cost."""

    def guide(self) -> Iterable[GuideTable]:
        """These tables by the guide's own formulas, beside what is true. For `hybrid plan --guide`."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was used in a round of a loop, made again from what its stage published.

    `value` is all of it as JSON, `lines` say it to people; both hold what models wrote. `missing` names each part that
    is not here, `wrong` what differs from what the round's record says.
    """

    value: Json
    lines: Sequence[str]
    missing: Sequence[str] = ()
    wrong: Sequence[str] = ()


@runtime_checkable
class ReplaysRounds(Protocol):
    """A pipeline that can make again what was used in a round of its loops."""

    def replay(
        self,
        tasks: Mapping[str, Any],
        series: str,
        metrics: RoundMetrics,
        group: str,
        read: Callable[[str, int], Sequence[Segment]],
    ) -> Replayed:
        """What `group`, one with notes in the record of a round of `series`, used in it.

        `read` gives the segments of a name and a number that are here. They are hostile until they are checked.
        """
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

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield one completion a request, as they finish, in any order; pull requests only as capacity frees.

        A None among them says that there is nothing to ask now, while a request is unanswered: pull again soon, at the
        latest after the next completion. One bad request (too long, bad schema) is an error completion; a dead engine
        raises HybridError.
        """
        ...

    def close(self) -> None:
        """Free the engine and its memory."""
        ...


class KeptTensors(NamedTuple):
    """Bytes that are kept under a name: `sha32` begins their sha256, `read` gives None where they are not whole."""

    number: int
    sha32: str
    read: Callable[[], bytes | None]


class Tensors(Protocol):
    """Where training keeps what must outlive this machine: checkpoints and adapters, as bytes (safetensors)."""

    def keep(self, name: str, number: int, data: bytes) -> None:
        """Keep `data` under a name (64 hex digits) and a number, which grows: safe on this machine's disk on return,
        in the folder when it can be carried. Of a name only the highest number is needed any more.

        Raises Temporary when there is no room.
        """
        ...

    def newest(self, name: str, after: int = -1) -> tuple[int, bytes] | None:
        """The highest number under `name` whose bytes verify, and these; None when none above `after` is here now."""
        ...

    def versions(self, name: str, after: int = -1, below: int = ...) -> Iterator[KeptTensors]:
        """What is here now under `name` with a number above `after` and below `below`, the highest number first."""
        ...


@dataclass(frozen=True, slots=True)
class Training:
    """What a stage trains, as the backend is told before it.

    `tensors` keeps the state of training, and holds the adapters of the run that requests may name. Of a stage that
    tunes, `examples(tuning.examples)` makes the texts of one training, and `trainings` are all of them, each once, in
    the order of the items, with the digest of the adapter that it starts from, "" for none.
    """

    tensors: Tensors
    examples: Callable[[Mapping[str, Json]], Sequence[Example]] | None = None
    trainings: tuple[tuple[Tuning, str], ...] = ()


@runtime_checkable
class TrainingBackend(Backend, Protocol):
    """A backend that trains adapters before it answers with them. It serves one stage after another."""

    def prepare(self, training: Training) -> None:
        """Make ready for a stage, and free what the stage before needed: adapters, processes.

        Raises CannotRun for adapters that are too large.
        """
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
    """Judges each output alone; a question's score is the mean over its outputs.

    One with a method `vote(text)` says what an answer votes for among several samples (None: for nothing), such as the
    number in it; by default that is the whole answer as SQuAD's script compares it.
    """

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
class MeasuringGrader(OutputGrader, Protocol):
    """A grader that has measured the outputs together: figures that are no mean over questions, in any unit.

    With an attribute `mixes`, such as "methods", it says that its scores are of several of them, so have no mean.
    """

    def measures(self) -> Iterable[Measured]:
        """What it measured, in the order in which it is shown."""
        ...


@runtime_checkable
class ModelGrader(Protocol):
    """Judges with a model, or all outputs together: sees all of them once before the first grade, so that many calls
    are in flight at a time, and measures are of all.
    """

    def ready(self, outputs: Iterable[Output], watcher: Watcher) -> AbstractContextManager[OutputGrader]:
        """Ask the model what it is needed for. What it said is kept at once, and not asked again by the same command.
        A `ReadyGrader` tells what judged, a `MeasuringGrader` what the outputs are worth together.

        Raises HybridError when the model is not to be had; NotFinished on Ctrl-C.
        """
        ...


@runtime_checkable
class RunGrader(Protocol):
    """Judges by what a model of the run has said of the outputs; no model is asked."""

    def of_run(self, run: Mapping[str, Any], models: Sequence[Any]) -> OutputGrader:
        """The grader for the outputs of a run, by the members `run` and `models` of outputs.json. One that knows which
        model it was is a `ReadyGrader`; its `checked_as`, if it has that, is the identity (`grading.calibration`) of
        the grader whose measured errors are its own.
        """
        ...


Grader = OutputGrader | QuestionGrader | ModelGrader

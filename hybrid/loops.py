"""Loops: a state that advances in rounds, such as federated or reinforcement learning. Every round is one record.

A loop has a state that is kept in the run now and then. Whoever goes on with it, on this machine or another, loads the
newest one and computes the rounds after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from hybrid.canonical import Json
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Item, Request, Sampling

MOST_ROUNDS = 100_000
"""Rounds of a series."""


class RoundFailed(Exception):
    """Raised by a loop that cannot go on, because it has diverged, say: its remaining rounds are failures.

    `kind` is a word such as `diverged`, by which failures are counted.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


class NotYet(Exception):
    """Raised by a loop's `round` that needs what another loop has not shared yet, before it has changed anything.

    The round is tried again later, perhaps by another worker. The message says what is waited for.
    """


@dataclass(frozen=True, slots=True)
class Series:
    """The rounds of one loop: of a method and a seed, say. Their records have `name` as their task.

    `settings` are what the loop's results depend on beside the run's own settings. Raises ValueError.
    """

    name: str
    rounds: int
    settings: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not 1 <= self.rounds <= MOST_ROUNDS:
            raise ValueError(f"a series has a name and 1 to {MOST_ROUNDS:,} rounds: {self.name!r:.60}, {self.rounds}")

    def items(self) -> Iterator[Item]:
        """One item a round, numbered from 0."""
        for number in range(self.rounds):
            made_of = {"series": self.name, "round": number, "settings": dict(self.settings)}
            yield Item(self.name, f"{self.name}/{number:05d}", Request(Sampling(max_tokens=1), template=made_of))


class EncodedText(NamedTuple):
    """A text as token ids. `types`, for models that have them: 1 for the tokens of a pair's second text.

    `truncated`: the text was longer.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()
    truncated: bool = False


class LabelledText(NamedTuple):
    """A text that a classifier of a slot is trained on. `weight`: of its loss in the slot's, 1 / batch size, say."""

    slot: int
    text: EncodedText
    label: int
    weight: float


class Lab(Protocol):
    """What a loop may use of the machine that it runs on. All but `device` need a backend with a model."""

    @property
    def device(self) -> str:
        """The device of torch to compute on, `cuda` or `cpu`. Raises CannotRun for a GPU that torch cannot use."""
        ...

    def tokenize(self, texts: Sequence[str | tuple[str, str]], longest: int) -> list[EncodedText]:
        """The texts, or pairs of texts, cut after `longest` tokens or what the model takes. Raises CannotRun."""
        ...

    def classifiers(self, slots: int, rank: int, targets: Sequence[str] | None, labels: int) -> Any:
        """A `hybrid.training.classifier_bank.ClassifierBank`: adapters of up to `rank` and heads in `slots` slots.

        `targets`: ends of the names of layers, None for all linear layers of the blocks. Raises CannotRun for a target
        that matches none, naming those there are.
        """
        ...

    def full_classifier(self, labels: int, seed: int) -> Any:
        """A `hybrid.training.full_classifier.FullClassifier`: a model all of whose parameters are trained.

        `seed`: of its head. Raises CannotRun.
        """
        ...


class Loop(Protocol):
    """A loop of one series. It is made anew, and told the newest state, whenever a machine goes on with it."""

    def round(self, number: int) -> RoundMetrics:
        """Compute a round. What comes of it depends on the state and the number alone. Raises RoundFailed."""
        ...

    def state(self) -> bytes:
        """All that the rounds after this one depend on: weights, moments, random generators. Not pickled."""
        ...

    def load(self, state: bytes) -> None:
        """Go on from what `state` gave, perhaps on another machine. Raises BadData for bytes that are none."""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


class Exchange(Protocol):
    """What the loops of a stage share with each other in the run's folder, from whichever machine they are advanced.

    What others shared is hostile until it is checked.
    """

    def share(self, name: str, number: int, data: bytes) -> None:
        """Share the version `number` of `name`; the numbers of a name grow, and only the newest two stay readable.

        Raises Temporary when there is no room.
        """
        ...

    def newest(self, name: str, after: int = -1) -> tuple[int, bytes] | None:
        """Number and bytes of the newest version that has arrived here; None when no number is above `after`."""
        ...


@runtime_checkable
class SharingLoop(Loop, Protocol):
    """A loop that shares something with the other loops of its stage.

    Its state is kept after every round. So what it shares at the beginning of a round, of the rounds before, is never
    newer than its state.
    """

    def connect(self, exchange: Exchange) -> None:
        """Take the exchange. Called once, before `load` and `round`."""
        ...

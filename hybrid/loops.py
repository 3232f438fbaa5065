"""Loops: a state that advances in rounds, such as federated or reinforcement learning. Every round is one record.

A loop has a state that is kept in the run now and then. Whoever goes on with it, on this machine or another, loads the
newest one and computes the rounds after it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from hybrid.canonical import Json
from hybrid.metrics import RoundMetrics
from hybrid.records import Failure, Item, Message, Request, Sampling
from hybrid.tuning import PolicyTuning

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
        return map(self.item, range(self.rounds))

    def item(self, number: int) -> Item:
        """The item of a round."""
        made_of = {"series": self.name, "round": number, "settings": dict(self.settings)}
        return Item(self.name, f"{self.name}/{number:05d}", Request(Sampling(max_tokens=1), template=made_of))


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


class Prompt(NamedTuple):
    """What the policy of a slot is to complete. The seeds of several samples of a prompt differ."""

    slot: int
    ids: tuple[int, ...]
    sampling: Sampling


class Sampled(NamedTuple):
    """A completion that a policy wrote: its tokens, the end token too if there is one, and its text without that.

    `ended`: it wrote the end token; else it was cut after `max_tokens`. `logprobs`: of each token when it was drawn, at
    the temperature of its sampling (a greedy one: at 1); where vLLM samples with `top_p` below 1, within the nucleus.
    """

    ids: tuple[int, ...]
    text: str
    ended: bool
    logprobs: tuple[float, ...]


class PolicyText(NamedTuple):
    """A prompt and its completion that the policy of a slot is trained on: the tokens from `start` on are labels.

    `weights`: of each label's cross-entropy in the slot's loss, `len(ids) - start` of them. A negative weight makes a
    token less likely. So a policy gradient is a cross-entropy with the weight advantage / denominator.
    """

    slot: int
    ids: tuple[int, ...]
    start: int
    weights: tuple[float, ...]


class Step(NamedTuple):
    """An optimizer step: the norm of its gradient before it was cut.

    `skipped`: the gradient is not finite, and nothing was changed.
    """

    norm: float
    skipped: bool


class Policies(Protocol):
    """Language models that are trained with what they wrote, one in each slot, over one base model.

    Everything about a slot depends on what was done with that slot alone, up to the rounding of sums.
    """

    slots: int
    together: bool
    """Whether gradients of several slots can be accumulated at once; else a slot's `step` comes before the next one."""
    context: int
    """Tokens of a prompt and a completion together."""
    end: int
    """The token that ends a completion."""
    tokenizer: str
    """Digest of the tokenizer: texts may be exchanged as token ids where it is the same."""
    sampler: str
    """What samples, with its version; "" for the model that is trained. Another program rounds in its own way, so its
    log-probabilities differ a little from those of training."""

    def begin(self, slot: int, seed: int) -> None:
        """Begin with the base model, and a fresh optimizer. `seed`: of an adapter's first values."""
        ...

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt by the model's chat template. Raises ValueError for one that is longer than the context."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a completion's text, without special ones."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion's tokens, without the end token. Raises ValueError for ids that there are not."""
        ...

    def text_of(self, ids: Sequence[int], *, ended: bool) -> str:
        """The text that `sample` gives with a completion of these ids.

        Raises ValueError for ids that it cannot have drawn: with a token that there is not, or behind the end, and of a
        completion that has ended without an end.
        """
        ...

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]:
        """A completion of each prompt, in their order. All slots are decoded together; equal prompts are computed once.

        Raises ValueError for a prompt that leaves no room for `max_tokens`; Temporary, CannotRun.
        """
        ...

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> tuple[float, ...]:
        """Accumulate the gradients of the texts in their slots. Returns the slots' losses [slots].

        The cross-entropy is that of logits / temperature. Texts beyond one pass's memory are divided into several.
        """
        ...

    def logprobs(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """The log-probabilities of each text's labels; nothing is accumulated."""
        ...

    def step(self, slot: int, learning_rate: float) -> Step:
        """One optimizer step of a slot with its gradients, which are then zero."""
        ...

    def rest(self, slot: int) -> None:
        """Go on with the same weights and a fresh optimizer."""
        ...

    def digest(self, slot: int) -> str:
        """The sha256 of the slot's trained weights."""
        ...

    def adapter(self, slot: int) -> bytes:
        """The slot's weights as safetensors: an adapter in PEFT's layout, or a whole model."""
        ...

    def state(self) -> bytes:
        """Weights, moments and step counts of all slots, as safetensors."""
        ...

    def load(self, state: bytes) -> None:
        """Go on from what `state` gave. Raises BadData for bytes that are none, or of another shape."""
        ...

    def close(self) -> None:
        """Free the memory, and leave the base model as it was."""
        ...


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

    def policies(self, slots: int, tuning: PolicyTuning) -> Policies:
        """Policies over the language model that is open. Raises CannotRun, also when they do not fit its memory."""
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

    def now(self) -> float:
        """Seconds of a clock of this process that only grows."""
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


class Segment(NamedTuple):
    """What a loop published under a name and a number. `id` is the sha256 of `data`."""

    name: str
    number: int
    data: bytes
    id: str


class Publications(Protocol):
    """What the loops of a stage publish in the run's folder, for good, from whichever machine they are advanced.

    What others published is hostile until it is checked. A number has several segments when two machines computed it.
    """

    def publish(self, name: str, number: int, data: bytes) -> str:
        """Publish a segment, which is never changed, and return its id. Publishing it again does nothing.

        `name` is of `a-z`, `0-9` and `-`. On return it is safe on this disk; it is carried to the folder in the
        background. Raises Temporary when there is no room, BadData for what cannot be published.
        """
        ...

    def arrived(self, since: int = 0, names: Collection[str] | None = None) -> list[Segment]:
        """The segments that have arrived here and were not returned before, one's own among them.

        They are sorted by number, name and id. Numbers below `since` are not read, and never will be; nor are other
        names than `names` now. Of much that has arrived a part comes with the next call.
        """
        ...

    def read(self, name: str, number: int) -> list[Segment]:
        """The segments of a name and number that are here, sorted by id."""
        ...


@runtime_checkable
class PublishingLoop(Loop, Protocol):
    """A loop that publishes segments, which the other loops of its stage may read.

    Publishing changes nothing that a round computes, so the state is kept as that of any loop: a machine that goes on
    from an older state computes rounds again, and finds what was published of them.
    """

    def publish_to(self, publications: Publications) -> None:
        """Take the publications. Called once, before `load` and `round`."""
        ...


@runtime_checkable
class CountingLoop(Loop, Protocol):
    """A loop whose state tells how many rounds are in it. A state of another number than its own is passed over."""

    @property
    def rounds_done(self) -> int | None:
        """The rounds in the state that was loaded last, and those computed since; None when that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Tried:
    """What a state of a loop does: `value` is all of it as JSON, `lines` say it to people. Models wrote part of it."""

    value: Json
    lines: Sequence[str]


@runtime_checkable
class TriesStates(Protocol):
    """A pipeline whose loops can be tried on any machine with a state that they kept, while the run goes on."""

    def try_state(self, tasks: Mapping[str, Any], series: Series, state: bytes, lab: Lab, prompt: str) -> Tried:
        """What the loop of `series` measures on a sample with `state`, and what it makes of `prompt`, "" for one of its
        own. `lab` is this machine's processor, without a model.

        Raises BadData for a state that is none, UsageError for a series that has nothing to try, or a prompt.
        """
        ...

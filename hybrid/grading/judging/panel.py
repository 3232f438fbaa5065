"""The models that judge, and how they are asked: what all graders that ask for verdicts have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from hybrid.backends.options import pairs
from hybrid.backends.registry import digest_before_loading, lazy_backend, open_backend, refuse_unknown
from hybrid.bounds import NOT_NEGATIVE, Bounds, help_of, refuse_outside
from hybrid.errors import UsageError
from hybrid.grading import reply_cache
from hybrid.grading.judging.asking import MAX_TOKENS, Asking, question_of
from hybrid.grading.judging.replies import ANOTHER_TRY, NOT_JUDGED
from hybrid.grading.reply_cache import ReplyCache
from hybrid.protocols import Watcher
from hybrid.records import Failure, Output, Request

LOG = logging.getLogger("hybrid")

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Call(Generic[V_co]):
    """A verdict that is asked for: the request of each attempt, and what is read in a reply and why it ended."""

    request: Callable[[int], Request]
    read: Callable[[str, str], V_co | str]


@dataclass(frozen=True)
class Panel:
    """The models that judge, and how they are asked."""

    models: tuple[str, ...] = field(default=(), metadata=help_of("who judges; several judges vote"))
    backend: str = field(default="ollama", metadata=help_of("the backend that runs the models"))
    options: tuple[str, ...] = field(default=(), metadata=help_of("name=value options of the backend"))
    samples: int = field(default=1, metadata=help_of("verdicts of each judge; more than 1 needs a temperature"))
    explain: bool = field(default=True, metadata=help_of("a reason before the verdict: slower"))
    temperature: float = field(default=0.0, metadata=help_of("0 is greedy"))
    seed: int = field(default=0, metadata=help_of("draws the samples"))
    max_tokens: int = field(default=MAX_TOKENS, metadata=help_of("bound of a reply with its reasons"))
    schema: bool = field(default=True, metadata=help_of("hold the model to JSON; false where the backend cannot"))
    retries: int = field(default=1, metadata=help_of("further tries when a verdict cannot be read"))
    asked: Literal["view", "id"] = field(
        default="view", metadata=help_of("the question's text: view.question, or its id")
    )
    instruction: str = field(default="", metadata=help_of("opens the prompt instead of ours"))

    def __post_init__(self) -> None:
        refuse_outside(self, samples=Bounds(1, 100), retries=Bounds(0, 10), max_tokens=Bounds(1, 100_000))
        refuse_outside(self, temperature=NOT_NEGATIVE, seed=Bounds(0, 2**31 - 1))
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples are all the same at temperature 0; set a temperature")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a judge is named twice: its second vote would equal its first")

    @property
    def asking(self) -> Asking:
        """How the judges are asked."""
        return Asking(self.explain, self.temperature, self.seed, self.max_tokens, self.schema, self.instruction)

    def question_of(self, output: Output) -> str:
        """The text of the question; empty when the output does not hold it."""
        return output.question if self.asked == "id" else question_of(output)

    @contextmanager
    def replies(self, name: str, calls: Callable[[], Iterable[Call[Any]]], watcher: Watcher) -> Iterator[Replies]:
        """Make every call that is not cached with each model, again where its verdict cannot be read.

        `name` is that of the grader. `calls` is iterated several times. Raises UsageError without a model, and for a
        model with two names.
        """
        if not self.models:
            raise UsageError(f"{name}: no model is named", hint="--model NAME, such as one of `ollama list`")
        options = dict(pairs("options", self.options))
        refuse_unknown(self.backend, options)
        digests = [digest_before_loading(self.backend, model, options) for model in self.models]
        if len(set(digests)) < len(digests):
            raise UsageError(
                f"{name}: two of the models are the same: {', '.join(self.models)}",
                hint="the same model under two names gives the same vote twice; name different models, or set samples",
            )
        with reply_cache.opened() as kept:
            made = Replies(self.models, digests, kept, self.retries + 1)
            for model, digest in zip(self.models, digests, strict=True):
                with lazy_backend(partial(open_backend, self.backend, model, options)) as backend:
                    for attempt in range(self.retries + 1):
                        asked = partial(made.left, calls, digest, attempt)
                        counts = kept.ask(digest, asked, backend, watcher, f"{name} {model}")
                        if not counts.distinct:
                            break
                        LOG.info("%s: %d distinct calls, %d cached", model, counts.distinct, counts.known)
            yield made


class Replies:
    """The cached replies of all models of a panel."""

    def __init__(self, models: tuple[str, ...], digests: list[str], kept: ReplyCache, attempts: int) -> None:
        self._models, self.digests, self._kept, self._attempts = models, digests, kept, attempts

    def votes(self, call: Call[V]) -> list[V | str]:
        """Each model's verdict, or why it gave none."""
        return [self._vote(call, digest, self._attempts) for digest in self.digests]

    def left(self, calls: Callable[[], Iterable[Call[Any]]], digest: str, attempt: int) -> Iterator[Request]:
        """The requests of this attempt: first all, later those without a readable verdict."""
        for call in calls():
            if not attempt or self._vote(call, digest, attempt) in ANOTHER_TRY:
                yield call.request(attempt)

    def models(self) -> list[Mapping[str, str]]:
        """Name and digest of each model."""
        return [{"name": name, "digest": one} for name, one in zip(self._models, self.digests, strict=True)]

    def _vote(self, call: Call[V], digest: str, attempts: int) -> V | str:
        """The first readable verdict of `attempts` attempts; else why the last one is unreadable."""
        problem = NOT_JUDGED
        for attempt in range(attempts):
            reply = self._kept.of(digest, call.request(attempt))
            if reply is None:
                break
            if isinstance(reply, Failure):
                return f"the judge failed: {reply.kind}"
            read = call.read(reply.text, reply.finish)
            if not isinstance(read, str):
                return read
            problem = read
        return problem

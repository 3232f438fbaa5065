"""Items: what is asked, of whom, and how. `hybrid.records` has all of these names, too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from hybrid.canonical import encoded, quoted
from hybrid.errors import PluginFault
from hybrid.tuning import Tuning


@dataclass(slots=True, unsafe_hash=True)
class Message:
    """One turn of a chat. Nothing may change one (see `Item`)."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A text to train on: a chat whose last message is the model's, or a raw `text`, never both.

    A raw text may follow a `prompt`, as a model that never chats is asked; that has a loss only where all tokens have
    one. `template` is passed to the chat template, as in a request.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    prompt: str = ""


Lesson = Example
"""The name of `Example` in earlier versions, for plugins."""


@dataclass(frozen=True)  # without slots there is room for `canonical`
class Sampling:
    """How to decode. `temperature` 0 is greedy; `max_tokens` counts new tokens."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    @cached_property
    def canonical(self) -> str:
        """Its canonical JSON, computed once: many items share one."""
        return encoded({name: getattr(self, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, named by the sha256 of its content: names and numbers are never reused."""

    digest: str
    path: str


@dataclass(slots=True)
class Request:
    """What a backend is asked: a chat (`messages`) or a raw text (`prompt`), never both.

    `template` is passed to the chat template (`date_string` pins the date); where it says nothing of thinking, that is
    off. With `tuning`, the model that answers is first trained so, from `adapter` if there is one; with neither
    messages nor a prompt, training is all that is asked, and the text of the answer is what came of it
    (docs/format.md). With `embed` the answer is the embedding of the prompt, and `sampling` says nothing. `key` and
    `role`, that of the item, are set by the engine. Nothing may change one (see `Item`).
    """

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    logprobs: bool = False
    adapter: Adapter | None = None
    tuning: Tuning | None = None
    key: str = ""
    embed: bool = False
    role: str = ""

    def encoded(self) -> str:
        """All that shapes the completion, as canonical JSON: the part of an item's key that the request gives.

        Written member by member, in the order of their names, and what is usual without a call: a run may have millions
        of keys. Raises TypeError and ValueError for what is no JSON.
        """
        adapter = "null" if self.adapter is None else encoded(self.adapter.digest)
        tuning = "" if self.tuning is None else f',"tuning":{encoded(self.tuning.digest)}'
        embed = "" if self.embed is False else f'"embed":{encoded(self.embed)},'
        said = [f'{{"content":{encoded(one.content)},"role":{quoted(one.role)}}}' for one in self.messages]
        return (
            f'{{"adapter":{adapter},{embed}"logprobs":{"false" if self.logprobs is False else encoded(self.logprobs)},'
            f'"messages":[{",".join(said)}],"prompt":{quoted(self.prompt)},"sampling":{self.sampling.canonical},'
            f'"schema":{"null" if self.schema is None else encoded(self.schema)},'
            f'"template":{encoded(self.template) if self.template != {} else "{}"}{tuning}}}'
        )


@dataclass(slots=True)
class Item:
    """One unit of work. `view` holds what grading needs to undo the way the question was shown.

    `role` says which of the run's models answers an item of a `Search`, "" being that of the stage. The digest of that
    model is what enters the key.

    Nothing may change one. Items, requests and messages are not frozen, since Python takes three times as long to make
    what is, and a run may have millions.
    """

    task: str
    question: str
    request: Request
    view: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    role: str = ""

    def key(self, stage: str, model: str) -> str:
        """`digest` as 64 hex digits."""
        return self.digest(stage, model).hex()

    def digest(self, stage: str, model: str) -> bytes:
        """sha256 over stage (name and version), model, request, view, sample: no row number. PluginFault: no JSON."""
        sample = self.sample
        try:
            text = (
                f'{{"model":{quoted(model)},"question":{quoted(self.question)},"request":{self.request.encoded()},'
                f'"sample":{sample if type(sample) is int else encoded(sample)},"stage":{quoted(stage)},'
                f'"task":{quoted(self.task)},"view":{encoded(self.view) if self.view != {} else "{}"}}}'
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise PluginFault(
                f"the stage '{stage}' made an item for the question '{self.question!s:.200}' that is no JSON: {error}",
                hint="the fault is in the pipeline: an item holds texts, numbers, lists and objects",
            ) from error
        return hashlib.sha256(text.encode()).digest()

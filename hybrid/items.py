"""Items: what is asked, of whom, and how. `hybrid.records` has all of these names, too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid.canonical import encoded, quoted
from hybrid.errors import PluginFault
from hybrid.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A text to train on: a chat whose last message is the model's, or a raw `text`, never both.

    `template` is passed to the chat template, as in a request.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)


Lesson = Example
"""The name of `Example` in earlier versions, for plugins."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. `temperature` 0 is greedy; `max_tokens` counts new tokens."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, named by the sha256 of its content: names and numbers are never reused."""

    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend is asked: a chat (`messages`) or a raw text (`prompt`), never both.

    `template` is passed to the chat template (`date_string` pins the date); where it says nothing of thinking, that is
    off. With `tuning`, the model that answers is first trained so, from `adapter` if there is one; with neither
    messages nor a prompt, training is all that is asked, and the text of the answer is what came of it
    (docs/format.md). With `embed` the answer is the embedding of the prompt, and `sampling` says nothing. `key` is set
    by the engine.
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

    def encoded(self) -> str:
        """All that shapes the completion, as canonical JSON: the part of an item's key that the request gives.

        Written member by member, in the order of their names, and what is usual without a call: a run may have millions
        of keys.
        """
        how, prompt, most, seed = self.sampling, self.prompt, self.sampling.max_tokens, self.sampling.seed
        adapter = "null" if self.adapter is None else encoded(self.adapter.digest)
        tuning = "" if self.tuning is None else f',"tuning":{encoded(self.tuning.digest)}'
        embed = "" if self.embed is False else f'"embed":{encoded(self.embed)},'
        said = [
            f'{{"content":{quoted(what) if type(what := one.content) is str else encoded(what)},'
            f'"role":{quoted(who) if type(who := one.role) is str else encoded(who)}}}'
            for one in self.messages
        ]
        return (
            f'{{"adapter":{adapter},{embed}"logprobs":{"false" if self.logprobs is False else encoded(self.logprobs)},'
            f'"messages":[{",".join(said)}],"prompt":{quoted(prompt) if type(prompt) is str else encoded(prompt)},'
            f'"sampling":{{"max_tokens":{most if type(most) is int else encoded(most)},'
            f'"seed":{seed if type(seed) is int else encoded(seed)},'
            f'"stop":{encoded(how.stop) if how.stop != () else "[]"},'
            f'"temperature":{encoded(how.temperature)},"top_p":{encoded(how.top_p)}}},'
            f'"schema":{"null" if self.schema is None else encoded(self.schema)},'
            f'"template":{encoded(self.template) if self.template != {} else "{}"}{tuning}}}'
        )


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work. `view` holds what grading needs to undo the way the question was shown.

    `role` says which of the run's models answers an item of a `Search`, "" being that of the stage. The digest of that
    model is what enters the key.
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
        task, question, sample = self.task, self.question, self.sample
        try:
            text = (
                f'{{"model":{quoted(model)},'
                f'"question":{quoted(question) if type(question) is str else encoded(question)},'
                f'"request":{self.request.encoded()},"sample":{sample if type(sample) is int else encoded(sample)},'
                f'"stage":{quoted(stage)},"task":{quoted(task) if type(task) is str else encoded(task)},'
                f'"view":{encoded(self.view) if self.view != {} else "{}"}}}'
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise PluginFault(
                f"the stage '{stage}' made an item for the question '{self.question!s:.200}' that is no JSON: {error}",
                hint="the fault is in the pipeline: an item holds texts, numbers, lists and objects",
            ) from error
        return hashlib.sha256(text.encode()).digest()

"""From a prompt and the settings of an arm to the request that a model is sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid.bounds import Bounds, help_of, refuse_outside
from hybrid.records import Message, Request, Sampling
from hybrid.sampling import check_sampling, item_seed
from pipelines.prompts.row import MOST_TOKENS, BadRow
from pipelines.prompts.template import Template

SEVERAL = 0.7
"""Temperature of several samples when none is set."""


@dataclass(frozen=True)
class Asking:
    """How a prompt is asked. What a row says of itself counts before these, but not before what an arm sets."""

    template: str = field(default="", metadata=help_of("makes the prompt of columns: 'Translate: {text}'"))
    system: str = field(default="", metadata=help_of("the system message of rows without one"))
    format: Literal["chat", "plain"] = field(
        default="chat", metadata=help_of("a chat, or a text to be continued by a model that was never taught to chat")
    )
    samples: int = field(default=1, metadata=help_of("answers to each prompt"))
    temperature: float | None = field(
        default=None, metadata=help_of("0 is greedy; none: 0 for one sample, 0.7 for several")
    )
    top_p: float = field(default=1.0, metadata=help_of("nucleus of the sampling, over 0 to 1"))
    seed: int = field(default=0, metadata=help_of("draws the samples"))
    max_tokens: int = field(default=256, metadata=help_of("bound of an answer"))
    stop: tuple[str, ...] = field(default=(), metadata=help_of("texts that end an answer"))
    date: str = field(default="26 Jul 2024", metadata=help_of("what the chat template says today is"))

    def __post_init__(self) -> None:
        refuse_outside(self, max_tokens=Bounds(1, MOST_TOKENS))
        check_sampling(self)
        if not all(self.stop):
            raise ValueError("stop has an empty text, which would end every answer before it begins")
        Template(self.template)

    def request(self, asked: Mapping[str, Any], question: str, sample: int, own: Collection[str] = ()) -> Request:
        """The request for a prompt, as `Prompt.asked` has it; `own` are the settings of an arm. Raises BadRow."""
        said = {name: value for name, value in asked.items() if name not in own}
        chat, system = self._chat(asked), said.get("system", self.system)
        sampling, schema = self._sampling(said, item_seed(self.seed, question, sample)), asked.get("schema")
        if self.format == "plain":
            return Request(sampling, prompt=_plain(chat, system), schema=schema)
        first = (Message("system", system),) if system else ()
        return Request(sampling, (*first, *chat), template={"date_string": self.date}, schema=schema)

    def _sampling(self, said: Mapping[str, Any], seed: int) -> Sampling:
        temperature = said.get("temperature", self.temperature)
        if temperature is None:
            temperature = SEVERAL if self.samples > 1 else 0.0
        if self.samples > 1 and temperature == 0:
            raise BadRow("its temperature is 0: all samples would be the same")
        return Sampling(
            said.get("max_tokens", self.max_tokens),
            float(temperature),
            said.get("top_p", self.top_p),
            said.get("seed", seed) if self.samples == 1 else seed,
            tuple(said.get("stop", self.stop)),
        )

    def _chat(self, asked: Mapping[str, Any]) -> tuple[Message, ...]:
        """The chat without its system message; a template makes one of a single message."""
        chat = tuple(Message(role, text) for role, text in asked.get("messages", ()))
        if self.template:
            chat = (Message("user", Template(self.template).filled(asked.get("cells", {}))),)
        if not chat or not chat[-1].content.strip():
            raise BadRow("its prompt is empty")
        return chat


def _plain(chat: tuple[Message, ...], system: str) -> str:
    if len(chat) > 1:
        raise BadRow("a chat of several messages is no plain text: --set format=chat")
    return f"{system}\n{chat[0].content}" if system else chat[0].content


def question_in(request: Request) -> str:
    """What was asked, for people and for a judge: the text, or the turns of the chat without the system's."""
    chat = [one for one in request.messages if one.role != "system"]
    if len(chat) == 1:
        return chat[0].content
    return "\n\n".join(f"{one.role}: {one.content}" for one in chat) if chat else request.prompt

"""What a model's chat template supports and how it ends a turn, found by rendering chats of marker words.

All backends fit requests by the same rules, so a model sees the same chat, and stops at the same token, on each.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.backends.prompts import BadRequest, check, render_chat
from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.records import Message, Request

LOG = logging.getLogger("hybrid")

Render = Callable[[Sequence[Message], bool], str]
"""Renders a chat with the model's template, with the opening of the model's turn if asked. May raise anything."""

SpecialToken = Callable[[str], int | None]
"""Returns the special token that a text begins with, None when there is none."""

MARKER = re.compile(r"<[^\s<>]{1,60}>|\[[^\s\[\]]{1,60}\]")
"""Control text such as <|im_end|>. Other words, or a full stop, may stand in the middle of an answer."""

SYSTEM = Message("system", "kelvormis")
USER = Message("user", "dratuwenk")
REPLY = Message("assistant", "pomiskarl")
SECOND_USER = Message("user", "vestolimb")
"""Marker words that no template contains."""

NO_TEMPLATE = "has no chat template"
UNUSABLE = "has a chat template that writes no chat"
DROPS_USER_MESSAGE = "has a chat template that does not write what the user says"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What a chat template supports. `refusal`: why no chat can be rendered; `ends`: the tokens that end a turn."""

    name: str = ""
    refusal: str = ""
    system: bool = True  # it renders a system message
    turns: bool = True  # it renders messages before the last one
    ends: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()  # texts that end a turn and are not tokens of this model
    opens: str = ""  # the mark of the thought that it opens; only where the prompt is not at hand

    def fit(self, request: Request) -> Request:
        """The request in a form that the template renders without loss, with the stop strings that end a turn.

        Raises BadRequest for a request that cannot be answered, CannotRun for a chat with a model without a usable
        template.
        """
        check(request)
        if request.schema is not None and request.logprobs:  # engines differ in whether they count the masking
            request = replace(request, logprobs=False)
        if not request.messages:
            return request
        if self.refusal:
            raise CannotRun(
                f"'{clean_line(self.name)}' {self.refusal}, and it is asked a chat",
                hint="take the instruction-tuned model, or write its template into the model's files; "
                "raw prompts need none",
            )
        sampling = replace(request.sampling, stop=(*request.sampling.stop, *self.stops))
        return replace(request, messages=self.fit_messages(request.messages), sampling=sampling)

    def fit_messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages in a form that the template renders. Raises BadRequest when there is none."""
        messages = messages if self.system else _system_merged(messages)
        if not self.turns and len(messages) > 1 + (messages[0].role == "system"):
            raise BadRequest("unsupported", "this model's chat template writes the last message alone")
        return messages

    def warn(self) -> None:
        """Log what the template lacks, once, when the model is opened."""
        model = clean_line(self.name)
        if not self.system:
            LOG.warning("the chat template of '%s' has no system message: it is put before the user's first", model)
        if not self.turns:
            LOG.warning("the chat template of '%s' writes the last message alone: longer chats are refused", model)

    def about(self) -> dict[str, Json]:
        """Deviations from most models' templates, for the records' provenance."""
        told: dict[str, Json] = {}
        if not self.system:
            told["system"] = "put before the first message of the user"
        if not self.turns:
            told["turns"] = "the last message alone"
        return told


def chat_template_of(tokenizer: Any, name: str) -> ChatTemplate:
    """The chat template of a model with a Hugging Face tokenizer."""
    if not tokenizer.chat_template:
        return ChatTemplate(name, NO_TEMPLATE)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def token(text: str) -> int | None:
        """Special tokens, and added tokens that look like markers."""
        first = next(iter(tokenizer(text, add_special_tokens=False).input_ids), None)
        added = first in tokenizer.added_tokens_decoder and MARKER.match(text)
        return first if first in special or added else None

    return probe_template(name, lambda chat, opened: render_chat(tokenizer, chat, {}, open_turn=opened), token)


def probe_template(name: str, render: Render, token: SpecialToken) -> ChatTemplate:
    """Find what the template of the model `name` supports by rendering chats. Raises nothing."""
    one_message = _render_or_none(render, [USER])
    longer = [SYSTEM, USER], [USER, REPLY, SECOND_USER]
    if one_message is None and all(_render_or_none(render, chat) is None for chat in longer):
        return ChatTemplate(name, unusable(_refusal_reason(render)))
    if one_message is not None and USER.content not in one_message:
        return ChatTemplate(name, DROPS_USER_MESSAGE)
    chat_template = ChatTemplate(
        name,
        system=_renders_all(render, [SYSTEM, USER]),
        turns=one_message is None or _renders_all(render, [USER, REPLY, SECOND_USER], if_refused=True),
    )
    end = _turn_end(render)
    number = token(end) if end else None
    if number is not None:
        return replace(chat_template, ends=frozenset([number]))
    literal = MARKER.match(end)
    return replace(chat_template, stops=(literal[0],) if literal else ())


def unusable(why: str) -> str:
    """The refusal for a template that is not a valid program, or raises for every chat; `why` is its error."""
    return f"{UNUSABLE} ({clean_line(why)[:200]})" if why else UNUSABLE


def _refusal_reason(render: Render) -> str:
    """The error that the template raises for a chat of one message; "" when it raises none."""
    try:
        render([USER], True)
    except Exception as error:  # noqa: BLE001 - as in _render_or_none
        return str(error) or type(error).__name__
    return ""


def _system_merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The chat with the system text put before the first user message. Raises BadRequest when there is none."""
    if messages[0].role != "system":
        return messages
    if len(messages) == 1 or messages[1].role != "user":
        raise BadRequest("unsupported", "this model's chat template has no system message, and no user speaks first")
    return (Message("user", f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:])


def _turn_end(render: Render) -> str:
    """The text that the template writes after an answer: at the end of a chat, else between two turns."""
    for chat in ([USER, REPLY], [USER, REPLY, SECOND_USER]):
        text = _render_or_none(render, chat, open_turn=False) or ""
        _, _, rest = text.rpartition(REPLY.content)
        if REPLY.content in text and (end := rest.partition(SECOND_USER.content)[0].strip()):
            return end
    return ""


def _renders_all(render: Render, chat: list[Message], *, if_refused: bool = False) -> bool:
    """Whether every message of the chat is rendered; `if_refused` when the template raises an error for the chat."""
    text = _render_or_none(render, chat)
    return if_refused if text is None else all(message.content in text for message in chat)


def _render_or_none(render: Render, chat: list[Message], *, open_turn: bool = True) -> str | None:
    """The rendered chat; None when the template raises an error for it."""
    try:
        return render(chat, open_turn)
    except Exception:  # noqa: BLE001 - templates are programs of the model's author and raise whatever they like
        return None

"""What a model's chat template can carry, and how it ends the model's turn: found by having it write marked chats.

All backends ask with the same form, so a model answers the same chat, and stops at the same place, on each of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.backends.prompts import BadRequest, check, rendered
from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.records import Message, Request

LOG = logging.getLogger("hybrid")

Render = Callable[[Sequence[Message], bool], str]
"""Writes a chat with the model's template, with the opening of the model's turn if asked. Raises what it likes."""

Token = Callable[[str], int | None]
"""The special token that a text begins with, None when there is none."""

MARKER = re.compile(r"<[^\s<>]{1,60}>|\[[^\s\[\]]{1,60}\]")
"""What a template writes for a machine: other words, or a full stop, may stand in the middle of an answer."""

SYSTEM = Message("system", "kelvormis")
USER = Message("user", "dratuwenk")
REPLY = Message("assistant", "pomiskarl")
AGAIN = Message("user", "vestolimb")
"""Words that no template holds."""

NO_TEMPLATE = "has no chat template"
UNUSABLE = "has a chat template that writes no chat"
SILENT = "has a chat template that does not write what the user says"


@dataclass(frozen=True, slots=True)
class Form:
    """What a template carries. `refusal`: why this model cannot be asked chats; `ends`: the tokens that end a turn."""

    name: str = ""
    refusal: str = ""
    system: bool = True  # it writes a system message
    turns: bool = True  # it writes what was said before the last message
    ends: frozenset[int] = frozenset()
    stops: tuple[str, ...] = ()  # texts that end a turn and are no token of this model's
    opens: str = ""  # the mark of the thought that it opens for the model: only where the prompt itself is not at hand

    def fit(self, request: Request) -> Request:
        """The request as the template can carry it: nothing of a chat is lost, and it stops at the end of the turn.

        Raises BadRequest for one that cannot be answered, CannotRun for a chat with a model that is not for chats.
        """
        check(request)
        if request.schema is not None and request.logprobs:  # engines differ in whether the schema shares in them
            request = replace(request, logprobs=False)
        if not request.messages:
            return request
        if self.refusal:
            raise CannotRun(
                f"'{clean_line(self.name)}' {self.refusal}, and it is asked a chat",
                hint="take the instruction-tuned model, or write its template into the model's files; "
                "raw prompts need none",
            )
        how = replace(request.sampling, stop=(*request.sampling.stop, *self.stops))
        return replace(request, messages=self.carried(request.messages), sampling=how)

    def carried(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages as the template can write them. Raises BadRequest when it cannot."""
        messages = messages if self.system else _merged(messages)
        if not self.turns and len(messages) > 1 + (messages[0].role == "system"):
            raise BadRequest("unsupported", "this model's chat template writes the last message alone")
        return messages

    def warn(self) -> None:
        """Say what the template lacks, once, when the model is opened."""
        model = clean_line(self.name)
        if not self.system:
            LOG.warning("the chat template of '%s' has no system message: it is put before the user's first", model)
        if not self.turns:
            LOG.warning("the chat template of '%s' writes the last message alone: longer chats are refused", model)

    def about(self) -> dict[str, Json]:
        """What is not as with most models, for the records' provenance."""
        told: dict[str, Json] = {}
        if not self.system:
            told["system"] = "put before the first message of the user"
        if not self.turns:
            told["turns"] = "the last message alone"
        return told


def form_of(tokenizer: Any, name: str) -> Form:
    """The form of a model with a Hugging Face tokenizer."""
    if not tokenizer.chat_template:
        return Form(name, NO_TEMPLATE)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}

    def token(text: str) -> int | None:
        """Special ones, and added ones that are called as markers are."""
        first = next(iter(tokenizer(text, add_special_tokens=False).input_ids), None)
        added = first in tokenizer.added_tokens_decoder and MARKER.match(text)
        return first if first in special or added else None

    return read_form(name, lambda chat, opened: rendered(tokenizer, chat, {}, opened=opened), token)


def read_form(name: str, render: Render, token: Token) -> Form:
    """The form of the model `name`, whose template `render` writes. Raises nothing."""
    alone = _written(render, [USER])
    if alone is None and all(_written(render, chat) is None for chat in ([SYSTEM, USER], [USER, REPLY, AGAIN])):
        return Form(name, unusable(_reason(render)))
    if alone is not None and USER.content not in alone:
        return Form(name, SILENT)
    form = Form(
        name,
        system=_carries(render, [SYSTEM, USER]),
        turns=alone is None or _carries(render, [USER, REPLY, AGAIN], otherwise=True),
    )
    end = _end(render)
    number = token(end) if end else None
    if number is not None:
        return replace(form, ends=frozenset([number]))
    literal = MARKER.match(end)
    return replace(form, stops=(literal[0],) if literal else ())


def unusable(why: str) -> str:
    """The refusal of chats with a model whose template is no program, or refuses every chat."""
    return f"{UNUSABLE} ({clean_line(why)[:200]})" if why else UNUSABLE


def _reason(render: Render) -> str:
    """Why the template does not write the least of chats."""
    try:
        render([USER], True)
    except Exception as error:  # noqa: BLE001 - as in _written
        return str(error) or type(error).__name__
    return ""


def _merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The chat with the system message's text before the first message of the user. Raises BadRequest without one."""
    if messages[0].role != "system":
        return messages
    if len(messages) == 1 or messages[1].role != "user":
        raise BadRequest("unsupported", "this model's chat template has no system message, and no user speaks first")
    return (Message("user", f"{messages[0].content}\n\n{messages[1].content}"), *messages[2:])


def _end(render: Render) -> str:
    """What the template writes behind an answer: at the end of a chat, else between two turns."""
    for chat in ([USER, REPLY], [USER, REPLY, AGAIN]):
        text = _written(render, chat, opened=False) or ""
        _, _, rest = text.rpartition(REPLY.content)
        if REPLY.content in text and (end := rest.partition(AGAIN.content)[0].strip()):
            return end
    return ""


def _carries(render: Render, chat: list[Message], *, otherwise: bool = False) -> bool:
    """Whether every message of the chat is written; `otherwise` when the template refuses the chat, and says so."""
    text = _written(render, chat)
    return otherwise if text is None else all(message.content in text for message in chat)


def _written(render: Render, chat: list[Message], *, opened: bool = True) -> str | None:
    """None when the template refuses the chat."""
    try:
        return render(chat, opened)
    except Exception:  # noqa: BLE001 - templates are programs of the model's author and raise whatever they like
        return None

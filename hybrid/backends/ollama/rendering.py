"""What a model's chat template supports on an Ollama server: by the server's own rendering, else by its text.

A template may lack a system text, or turns before the last: the server then drops them silently. So chats of marker
words are rendered when the model is opened, which takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from hybrid.backends.chat_templates import (
    DROPS_USER_MESSAGE,
    NO_TEMPLATE,
    REPLY,
    SECOND_USER,
    SYSTEM,
    USER,
    ChatTemplate,
)
from hybrid.backends.ollama.api import CRASHED, cannot_use
from hybrid.backends.ollama.server import Server
from hybrid.backends.servers.replies import ErrorReply
from hybrid.records import Message
from hybrid.thoughts import opened_by

ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
RENDERER_LINE = re.compile(r"^RENDERER +\S", re.MULTILINE | re.IGNORECASE)
DATE = re.compile(r"\b(?:currentDate|yesterdayDate|strftime_now)\b")
DATES = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y")
TURN_END = re.compile(r"<[^<>\s]{0,60}[|｜_][^<>\s]{0,60}>")
"""Such as <|im_end|> and <end_of_turn>, but not `</s>`: an answer in HTML may hold that."""

HINT = (
    "make it anew with the TEMPLATE that its makers give: a Modelfile with FROM and TEMPLATE, `ollama create`; or take "
    "the model from Ollama's library, which has it. Raw prompts need none"
)

CHANNEL = "<|channel|>"
"""In a template that ends every part of a reply, also thoughts, with the text that ends a turn."""


def chat_template_from_text(name: str, template: str, modelfile: str) -> ChatTemplate:
    """A guess from the text of a template. A model with a RENDERER of the server is taken to support everything."""
    if RENDERER_LINE.search(modelfile) or "{%" in template:  # the second is a Jinja template
        return ChatTemplate(name)
    listed = ".Messages" in template
    if not listed and ".Prompt" not in template:
        return ChatTemplate(name, DROPS_USER_MESSAGE)
    if not ACTION.sub("", template).strip():
        return ChatTemplate(name, NO_TEMPLATE)
    return ChatTemplate(name, system=listed or ".System" in template, opens=opened_by(ACTION.sub("", template)))


def chat_template_from_server(
    server: Server, body: Mapping[str, Any], guess: ChatTemplate
) -> tuple[ChatTemplate, bool]:
    """What the server's rendering supports, and whether it holds today's date; `guess` when it shows no prompt.

    `body` holds the settings of all chats. Raises HybridError when the server does not answer or cannot render a chat.
    """
    system = [SYSTEM]
    try:
        one_question = _rendered_prompt(server, body, SYSTEM, USER)
    except ErrorReply:  # some templates raise an error for a system text
        one_question = ""
    if one_question is None:
        return guess, False
    try:
        if SYSTEM.content not in one_question:
            system, one_question = [], _rendered_prompt(server, body, USER) or ""
    except ErrorReply as error:
        raise cannot_use(error, str(body["model"])) from error
    try:
        turns = _rendered_prompt(server, body, *system, USER, REPLY, SECOND_USER) or ""
    except ErrorReply:
        turns = ""
    after_user, after_reply = _between(turns, USER, REPLY), _between(turns, REPLY, SECOND_USER)
    _, found, opening = one_question.rpartition(USER.content)
    dated = any(day in one_question for day in _days())
    if not found:
        return ChatTemplate(guess.name, DROPS_USER_MESSAGE), dated
    if not (opening.strip() or after_reply):
        return ChatTemplate(guess.name, NO_TEMPLATE), dated
    end = TURN_END.match(after_reply)
    stops = (end[0],) if end and CHANNEL not in turns else ()
    opens = opened_by(one_question)
    return ChatTemplate(
        guess.name, system=bool(system), turns=bool(after_user and after_reply), stops=stops, opens=opens
    ), dated


def _rendered_prompt(server: Server, body: Mapping[str, Any], *messages: Message) -> str | None:
    """The prompt; None when the server does not show it and has answered with one token instead. Raises ErrorReply."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    options = {**body["options"], "num_predict": 1}
    request = {**body, "messages": chat, "options": options, "stream": False, "_debug_render_only": True}
    try:
        reply = server.ask("/api/chat", request)
    except ErrorReply as error:
        if error.status == 503 or "memory" in error.message or any(words in error.message for words in CRASHED):
            raise cannot_use(error, str(body["model"])) from error  # the error is not about the template
        raise
    shown = reply.get("_debug_info")
    prompt = shown.get("rendered_template") if isinstance(shown, dict) else None
    return prompt if isinstance(prompt, str) else None


def _between(prompt: str, one: Message, other: Message) -> str:
    """The text between two messages, in this order; "" when it is blank or one of them is missing."""
    _, found, rest = prompt.partition(one.content)
    after_reply, then, _ = rest.partition(other.content)
    return after_reply.replace(SYSTEM.content, "").strip() if found and then else ""


def _days() -> Iterator[str]:
    """Yesterday, today and tomorrow in the formats of templates: the server may be in another time zone."""
    now = datetime.now()  # noqa: DTZ005
    for days in (-1, 0, 1):
        for chat_template in DATES:
            yield (now + timedelta(days=days)).strftime(chat_template)

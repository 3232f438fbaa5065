"""What a model's template carries on an Ollama server: by the server's own rendering, else by the template's text.

A template may have no place for a system text, or for turns before the last: the server then leaves them out and says
nothing. So chats of words that stand nowhere else are rendered when the model is opened, which takes milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from hybrid.backends.ollama.client import CRASHED, Refused, cannot_use
from hybrid.backends.ollama.server import Server
from hybrid.backends.turns import AGAIN, NO_TEMPLATE, REPLY, SILENT, SYSTEM, USER, Form
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
"""Of a template that ends each part of a reply, thoughts too, as it ends a turn."""


def form_by_text(name: str, template: str, modelfile: str) -> Form:
    """A guess from the text of a template. What the server's own code writes has a place for everything."""
    if RENDERER_LINE.search(modelfile) or "{%" in template:  # the second is a template for Hugging Face's libraries
        return Form(name)
    listed = ".Messages" in template
    if not listed and ".Prompt" not in template:
        return Form(name, SILENT)
    if not ACTION.sub("", template).strip():
        return Form(name, NO_TEMPLATE)
    return Form(name, system=listed or ".System" in template, opens=opened_by(ACTION.sub("", template)))


def form_by_server(server: Server, body: Mapping[str, Any], guess: Form) -> tuple[Form, bool]:
    """What the server writes for a chat, and whether that has the date of the day; `guess` when it shows nothing.

    `body` is what chats are asked with. Raises HybridError when the server does not answer, or can write no chat.
    """
    system = [SYSTEM]
    try:
        alone = _rendered(server, body, SYSTEM, USER)
    except Refused:  # some templates raise an error for a system text
        alone = ""
    if alone is None:
        return guess, False
    try:
        if SYSTEM.content not in alone:
            system, alone = [], _rendered(server, body, USER) or ""
    except Refused as error:
        raise cannot_use(error, str(body["model"])) from error
    try:
        turns = _rendered(server, body, *system, USER, REPLY, AGAIN) or ""
    except Refused:
        turns = ""
    behind, between = _between(turns, USER, REPLY), _between(turns, REPLY, AGAIN)
    _, found, opening = alone.rpartition(USER.content)
    dated = any(day in alone for day in _days())
    if not found:
        return Form(guess.name, SILENT), dated
    if not (opening.strip() or between):
        return Form(guess.name, NO_TEMPLATE), dated
    end = TURN_END.match(between)
    stops = (end[0],) if end and CHANNEL not in turns else ()
    opens = opened_by(alone)
    return Form(guess.name, system=bool(system), turns=bool(behind and between), stops=stops, opens=opens), dated


def _rendered(server: Server, body: Mapping[str, Any], *messages: Message) -> str | None:
    """The prompt; None when the server shows none: then it has answered, with one token. Raises Refused."""
    chat = [{"role": message.role, "content": message.content} for message in messages]
    options = {**body["options"], "num_predict": 1}
    asked = {**body, "messages": chat, "options": options, "stream": False, "_debug_render_only": True}
    try:
        reply = server.ask("/api/chat", asked)
    except Refused as error:
        if error.status == 503 or "memory" in error.message or any(words in error.message for words in CRASHED):
            raise cannot_use(error, str(body["model"])) from error  # that is no word about the template
        raise
    shown = reply.get("_debug_info")
    prompt = shown.get("rendered_template") if isinstance(shown, dict) else None
    return prompt if isinstance(prompt, str) else None


def _between(prompt: str, one: Message, other: Message) -> str:
    """What stands between two messages, in this order; "" when that is only space, or one of them is missing."""
    _, found, rest = prompt.partition(one.content)
    between, then, _ = rest.partition(other.content)
    return between.replace(SYSTEM.content, "").strip() if found and then else ""


def _days() -> Iterator[str]:
    """Yesterday, today and tomorrow, as templates write a day: the server's clock may be of another zone."""
    now = datetime.now()  # noqa: DTZ005
    for days in (-1, 0, 1):
        for form in DATES:
            yield (now + timedelta(days=days)).strftime(form)

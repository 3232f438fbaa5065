"""From a request to the exact tokens that a model sees, with a Hugging Face tokenizer. No engine is imported here.

A chat is rendered by the model's own template and then tokenized without adding special tokens, since templates
write the beginning-of-text token themselves. Whatever the tokenizer and the template do, the prompt starts with exactly
one such token when the tokenizer starts texts with one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid.backends.dates import strftime_now
from hybrid.records import Completion, Failure, Message, Request
from hybrid.thoughts import disabling_variables


class BadRequest(Exception):
    """A request that cannot be answered: it becomes an error completion and does not end the run."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message)


def refused(request: Request, error: BadRequest) -> Completion:
    """The error completion of a refused request."""
    return Completion(request.key, error=error.failure)


def token_ids(tokenizer: Any, request: Request, context: int) -> list[int]:
    """The prompt's tokens. Raises BadRequest: kind `too-long` when prompt and `max_tokens` exceed `context`."""
    ids = prompt_ids(tokenizer, request)
    if len(ids) + request.sampling.max_tokens > context:
        room = context - request.sampling.max_tokens
        raise BadRequest(
            "too-long",
            f"the prompt has {len(ids)} tokens, but only {room} fit: "
            f"context {context} less max_tokens {request.sampling.max_tokens}",
        )
    return ids


def prompt_ids(tokenizer: Any, request: Request) -> list[int]:
    """The prompt's tokens, without a limit. Raises BadRequest."""
    try:
        ids = _tokenize(tokenizer, request)
    except BadRequest:
        raise
    except Exception as error:  # templates are programs of the model's author and may raise anything
        raise BadRequest("bad-request", f"the prompt cannot be made: {type(error).__name__}: {error}") from error
    if not ids:
        raise BadRequest("bad-request", "the prompt is empty")
    return ids


def check(request: Request) -> None:
    """Raise BadRequest for a request that no backend accepts, so that all backends refuse it in the same words."""
    how = request.sampling
    texts = [request.prompt, *how.stop, *(message.content for message in request.messages)]
    if request.embed:
        raise BadRequest("bad-request", "a request for an embedding needs a role whose backend embeds texts")
    if bool(request.messages) == bool(request.prompt):
        raise BadRequest("bad-request", "a request needs messages or a prompt, one of the two")
    if not (how.max_tokens >= 1 and 0 <= how.temperature < math.inf and 0 < how.top_p <= 1):
        raise BadRequest("bad-request", "needs max_tokens >= 1, temperature >= 0 and top_p in (0, 1]")
    if not all(how.stop):
        raise BadRequest("bad-request", "an empty stop string would end every answer before it begins")
    if any(message.role == "system" for message in request.messages[1:]):
        raise BadRequest("bad-request", "a system message can only be the first: many templates drop a later one")
    refuse_half_characters(texts, "request")


def refuse_half_characters(texts: Iterable[str], what: str) -> None:
    """Raise BadRequest when a text of a "request" or "example" cannot be encoded: no tokenizer takes it."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"bad-{what}", f"the {what} holds half a character: {error.reason}") from error


def _tokenize(tokenizer: Any, request: Request) -> list[int]:
    if request.prompt:
        return _with_one_bos(tokenizer, tokenizer(request.prompt).input_ids)
    if not tokenizer.chat_template:
        raise BadRequest("bad-request", "this model has no chat template: ask it with a prompt, not with messages")
    text = render_chat(tokenizer, request.messages, request.template)
    return _with_one_bos(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)


def _with_one_bos(tokenizer: Any, ids: list[int]) -> list[int]:
    """`ids` with exactly one leading beginning-of-text token, if this tokenizer starts texts with one."""
    start = tokenizer.bos_token_id
    adds = start is not None and tokenizer("").input_ids[:1] == [start]
    if not adds:
        return ids
    rest = 0
    while ids[rest : rest + 1] == [start]:
        rest += 1
    return [start, *ids[rest:]]


def render_chat(
    tokenizer: Any, messages: Iterable[Message], template: Mapping[str, Any], *, open_turn: bool = True
) -> str:
    """The chat rendered by the model's template; `open_turn` adds the opening of the model's turn. May raise anything.

    Thinking is switched off where the template has a switch for it and `template` does not set it.
    """
    chat = [{"role": message.role, "content": message.content} for message in messages]
    switches = disabling_variables(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else {}
    settings = {"strftime_now": strftime_now(template), **switches, **template}
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=open_turn, **settings))

"""One streamed reply of /chat/completions or /completions, read event by event; only a complete one is returned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hybrid.backends.completions import encodable
from hybrid.backends.openai.address import error_in
from hybrid.backends.servers.answers import Reply, logarithm, tokens_in
from hybrid.backends.servers.replies import MAX_LINE, ErrorReply, ReplyError
from hybrid.canonical import decode
from hybrid.errors import BadData
from hybrid.machine.terminal import clean_line

SERVER = "the server"
BYTES_PER_TOKEN = 16_384
"""Most bytes of a reply for each requested token: an event has some hundred, with log-probabilities some thousand."""

THOUGHTS = ("reasoning_content", "reasoning")
"""Under which names servers give the thought apart from the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedReply(Reply):
    """A complete reply: `model` is the one that answered, as the server calls it."""

    model: str


class ReplyReader:
    """Reads the events of the reply to a request of at most `tokens` new tokens, as server-sent events."""

    def __init__(self, tokens: int) -> None:
        self._most_bytes = MAX_LINE + BYTES_PER_TOKEN * tokens
        self._bytes = 0
        self._parts: list[str] = []
        self._thoughts: list[str] = []
        self._tokens: list[tuple[bytes, float]] = []  # text and natural logarithm of each
        self._finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._model = ""

    def take(self, line: bytes) -> bool:
        """Read a line; true when it is the last. Raises ReplyError for an invalid one, ErrorReply for an error."""
        self._bytes += len(line)
        if self._bytes > self._most_bytes:
            raise ReplyError("engine", f"the server wrote more than was asked for: {self._bytes:,} bytes")
        name, found, payload = line.strip().partition(b":")
        if not found or name not in (b"", b"data", b"event", b"id", b"retry"):
            raise ReplyError("engine", f"the server does not stream its reply: {clean_line(_text(line))[:100]}")
        if name != b"data":  # a comment, or what an event is called
            return False
        payload = payload.strip()
        if payload == b"[DONE]":
            return True
        self._add(_object(payload))
        return False

    def reply(self) -> NamedReply:
        """The reply. Raises ReplyError when the server did not say why it ended."""
        if self._finish is None:
            raise ReplyError("engine", "the server ended its reply without a reason")
        text, details = encodable("".join(self._parts)), self._usage.get("prompt_tokens_details")
        return NamedReply(
            text=text,
            thought=encodable("".join(self._thoughts)),
            finish=self._finish,
            prompt_tokens=tokens_in(self._usage, "prompt_tokens", SERVER),
            cached_tokens=tokens_in(details if isinstance(details, dict) else {}, "cached_tokens", SERVER),
            completion_tokens=tokens_in(self._usage, "completion_tokens", SERVER),
            logprob=_logprob_of(text, self._tokens),
            model=self._model,
        )

    def _add(self, event: dict[str, Any]) -> None:
        if event.get("error"):
            body = json.dumps(event).encode()
            raise ErrorReply(_status_of(event["error"]), error_in(body), body)
        if isinstance(usage := event.get("usage"), dict):
            self._usage = usage
        if isinstance(model := event.get("model"), str):
            self._model = model
        choices = event.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise ReplyError("engine", "a choice in the server's reply is not an object")
            self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        said: dict[str, Any] = delta if isinstance(delta, dict) else {}
        for piece in (choice.get("text"), said.get("content"), said.get("refusal")):
            if not isinstance(piece, str | None):
                raise ReplyError("engine", "the text in the server's reply is not a text")
            if piece:
                self._parts.append(piece)
        thought = next((one for name in THOUGHTS if isinstance(one := said.get(name), str)), "")
        if thought:
            self._thoughts.append(thought)
        if choice.get("finish_reason") is not None:
            self._finish = clean_line(str(choice["finish_reason"]))[:40]
        self._tokens.extend(_tokens(choice.get("logprobs")))


def _status_of(error: Any) -> int:
    """The HTTP status that an error within a stream names, as vLLM's do; 0 when it names none."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 0


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = decode(payload, what="an event of the server's reply", limit=MAX_LINE)
    except BadData as error:
        raise ReplyError("engine", clean_line(error.message)) from error
    if not isinstance(value, dict):
        raise ReplyError("engine", "an event of the server's reply is not a JSON object")
    return value


def _tokens(logprobs: Any) -> list[tuple[bytes, float]]:
    """Text and natural logarithm of each token in an event: of a chat, or in the older form of /completions."""
    if not isinstance(logprobs, dict):
        return []
    if isinstance(content := logprobs.get("content"), list):
        rows = [one if isinstance(one, dict) else {} for one in content]
        return [(_bytes_of(row), logarithm(row.get("logprob"), SERVER)) for row in rows]
    texts, numbers = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if isinstance(texts, list) and isinstance(numbers, list) and len(texts) == len(numbers):
        return [
            (str(text).encode(errors="replace"), logarithm(one, SERVER))
            for text, one in zip(texts, numbers, strict=True)
        ]
    return []


def _bytes_of(row: dict[str, Any]) -> bytes:
    """The bytes of a token, which may be a part of a character; else its text."""
    given = row.get("bytes")
    if isinstance(given, list) and all(type(one) is int and 0 <= one < 256 for one in given):
        return bytes(given)
    return str(row.get("token", "")).encode(errors="replace")


def _logprob_of(text: str, tokens: list[tuple[bytes, float]]) -> float | None:
    """The sum over the tokens of the text, without what ends it: a special token, a stop string. None without any."""
    if not tokens:
        return None
    total, size, whole = 0.0, 0, len(text.encode())
    for piece, one in tokens:
        if size >= whole:
            break
        size += len(piece)
        total += one
    return total


def _text(data: bytes) -> str:
    return data[:200].decode(errors="replace")

"""One streamed reply of /api/chat or /api/generate, read line by line; only a complete reply is returned."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from hybrid.backends.completions import encodable
from hybrid.backends.servers.answers import Reply, logarithm, tokens_in
from hybrid.backends.servers.replies import MAX_LINE, ErrorReply, ReplyError
from hybrid.canonical import decode
from hybrid.errors import BadData
from hybrid.machine.terminal import clean_line

SERVER = "Ollama"
REPEATS = 30
"""Equal pieces in a row after which Ollama silently ends a reply."""

SLACK = 64
"""Lines beyond the number of requested tokens: pieces that a PARSER of the server buffers are separate lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedReply(Reply):
    """A complete reply: `waited` are seconds in the server's queue, `served` those of computation."""

    waited: float
    served: float


class ReplyReader:
    """Reads the lines of the reply to a request of at most `tokens` new tokens."""

    def __init__(self, tokens: int) -> None:
        self._most_lines = tokens + SLACK
        self._most_bytes = MAX_LINE + 4096 * self._most_lines
        self._lines = self._bytes = 0
        self._parts: list[str] = []
        self._latest: deque[str] = deque(maxlen=REPEATS + 1)
        self._thoughts: list[str] = []
        self._logprob = 0.0
        self._started = time.monotonic()
        self._first: float | None = None
        self._last: dict[str, Any] = {}

    def take(self, line: bytes) -> bool:
        """Read a line; true when it is the last. Raises ReplyError for an invalid line, ErrorReply for an error."""
        self._lines += 1
        self._bytes += len(line)
        if self._lines > self._most_lines or self._bytes > self._most_bytes:
            raise ReplyError("engine", f"Ollama wrote more than was asked for: {self._lines:,} lines")
        try:
            value = decode(line, what="a line of Ollama's reply", limit=MAX_LINE)
        except BadData as error:
            raise ReplyError("engine", clean_line(error.message)) from error
        if not isinstance(value, dict):
            raise ReplyError("engine", "a line of Ollama's reply is not a JSON object")
        if "error" in value:
            raise ErrorReply(0, str(value["error"]))
        self._add(value)
        self._last = value
        return value.get("done") is True

    def _add(self, value: dict[str, Any]) -> None:
        message = value.get("message")
        piece, thought = value.get("response"), value.get("thinking")
        if isinstance(message, dict):
            piece, thought = message.get("content"), message.get("thinking")
        if not isinstance(piece, str | None):
            raise ReplyError("engine", "the text in Ollama's reply is not a text")
        if piece or thought:
            self._first = time.monotonic() if self._first is None else self._first
            self._latest.append((piece or "").strip())
        if piece:
            self._parts.append(piece)
        if isinstance(thought, str):
            self._thoughts.append(thought)
        self._logprob += _sum(value.get("logprobs"))

    @property
    def repeats(self) -> bool:
        """Whether the latest pieces are all equal: Ollama ends such a reply, also when the request is repeated."""
        return len(self._latest) > REPEATS and len(set(self._latest)) == 1

    def reply(self) -> TimedReply:
        """The reply. Raises ReplyError when the last line does not give a valid reason for its end."""
        finish = self._last.get("done_reason")
        if finish not in ("stop", "length"):
            raise ReplyError("engine", f"Ollama ended a reply because of '{clean_line(str(finish))[:40]}'")
        now, last = time.monotonic(), self._last
        prompt = _seconds(last, "prompt_eval_duration")
        loading = _seconds(last, "load_duration")
        waited = max(0.0, (now if self._first is None else self._first) - self._started - prompt - loading)
        return TimedReply(
            text=encodable("".join(self._parts)),
            thought=encodable("".join(self._thoughts)),
            finish=finish,
            prompt_tokens=tokens_in(last, "prompt_eval_count", SERVER),
            completion_tokens=tokens_in(last, "eval_count", SERVER),
            logprob=self._logprob,
            waited=waited,
            served=max(0.0, now - self._started - loading - waited),
        )


def _sum(logprobs: Any) -> float:
    """The sum of the natural logarithms, one per token."""
    if logprobs is None:
        return 0.0
    total = 0.0
    for one in logprobs if isinstance(logprobs, list) else [None]:
        total += logarithm(one.get("logprob") if isinstance(one, dict) else None, SERVER)
    return total


def _seconds(value: dict[str, Any], name: str) -> float:
    """A duration in seconds, from Ollama's nanoseconds; 0 when it is missing."""
    found = value.get(name, 0)
    return found / 1e9 if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0.0

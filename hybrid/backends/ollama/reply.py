"""One streamed reply of /api/chat or /api/generate, read line by line and believed only when it came to its end."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from hybrid.backends.ollama.client import Refused
from hybrid.backends.ollama.link import MOST_LINE, Trouble
from hybrid.canonical import decode
from hybrid.errors import BadData
from hybrid.machine.terminal import clean_line

REPEATS = 30
"""Equal pieces in a row after which Ollama breaks a reply off, without a word."""

SLACK = 64
"""Lines more than tokens that were asked for: pieces that a parser in the server holds back come by themselves."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that is whole."""

    text: str
    thought: str  # what the server has set apart
    finish: str
    prompt_tokens: int
    completion_tokens: int
    logprob: float
    waited: float  # seconds in the server before anything was done for it
    served: float


class Reader:
    """Takes the lines of a reply to a request of at most `tokens` new tokens."""

    def __init__(self, tokens: int) -> None:
        self._most_lines = tokens + SLACK
        self._most_bytes = MOST_LINE + 4096 * self._most_lines
        self._lines = self._bytes = 0
        self._parts: list[str] = []
        self._latest: deque[str] = deque(maxlen=REPEATS + 1)
        self._thoughts: list[str] = []
        self._logprob = 0.0
        self._started = time.monotonic()
        self._first: float | None = None
        self._last: dict[str, Any] = {}

    def take(self, line: bytes) -> bool:
        """True when this was the last line. Raises Trouble for what is no line of Ollama, Refused for an error."""
        self._lines += 1
        self._bytes += len(line)
        if self._lines > self._most_lines or self._bytes > self._most_bytes:
            raise Trouble("engine", f"Ollama wrote more than was asked for: {self._lines:,} lines")
        try:
            value = decode(line, what="a line of Ollama's reply", limit=MOST_LINE)
        except BadData as error:
            raise Trouble("engine", clean_line(error.message)) from error
        if not isinstance(value, dict):
            raise Trouble("engine", "a line of Ollama's reply is not a JSON object")
        if "error" in value:
            raise Refused(0, str(value["error"]))
        self._add(value)
        self._last = value
        return value.get("done") is True

    def _add(self, value: dict[str, Any]) -> None:
        message = value.get("message")
        piece, thought = value.get("response"), value.get("thinking")
        if isinstance(message, dict):
            piece, thought = message.get("content"), message.get("thinking")
        if not isinstance(piece, str | None):
            raise Trouble("engine", "the text in Ollama's reply is not a text")
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
        """Whether the latest pieces are one and the same: Ollama breaks such a reply off, however often it is asked."""
        return len(self._latest) > REPEATS and len(set(self._latest)) == 1

    def reply(self) -> Reply:
        """What came. Raises Trouble when the last line does not say how it ended."""
        finish = self._last.get("done_reason")
        if finish not in ("stop", "length"):
            raise Trouble("engine", f"Ollama ended a reply because of '{clean_line(str(finish))[:40]}'")
        now, last = time.monotonic(), self._last
        prompt = _seconds(last, "prompt_eval_duration")
        loading = _seconds(last, "load_duration")
        waited = max(0.0, (now if self._first is None else self._first) - self._started - prompt - loading)
        return Reply(
            text=_encodable("".join(self._parts)),
            thought=_encodable("".join(self._thoughts)),
            finish=finish,
            prompt_tokens=_count(last, "prompt_eval_count"),
            completion_tokens=_count(last, "eval_count"),
            logprob=self._logprob,
            waited=waited,
            served=max(0.0, now - self._started - loading - waited),
        )


def _encodable(text: str) -> str:
    """JSON may write half of a surrogate pair, which no UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _sum(logprobs: Any) -> float:
    """Of natural logarithms, one a token."""
    if logprobs is None:
        return 0.0
    total = 0.0
    for one in logprobs if isinstance(logprobs, list) else [None]:
        value = one.get("logprob") if isinstance(one, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise Trouble("engine", "a log-probability in Ollama's reply is no number")
        total += value
    return total


def _count(value: dict[str, Any], name: str) -> int:
    """A number of tokens; Ollama leaves out what is 0."""
    found = value.get(name, 0)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 40:
        raise Trouble("engine", f"{name} in Ollama's reply is no number of tokens")
    return found


def _seconds(value: dict[str, Any], name: str) -> float:
    """A duration, which Ollama gives in nanoseconds; 0 when it does not."""
    found = value.get(name, 0)
    return found / 1e9 if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0.0

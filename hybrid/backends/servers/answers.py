"""A complete reply of a server, whatever its interface is, and the completion that it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.backends.completions import separate_thought
from hybrid.backends.servers.replies import ReplyError
from hybrid.records import Completion, Request, unanswered


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a server wrote. Counts are 0 when it does not say them; `thought` as it separated it."""

    text: str
    thought: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    logprob: float | None = None


def completion_of(request: Request, reply: Reply, *, opened: str, seconds: float) -> Completion:
    """The completion of a reply that came to its end. `opened`: the mark of the thought that the prompt has opened."""
    only_thought = bool(reply.thought) and not reply.text.strip()
    written = Completion(
        request.key,
        text=None if only_thought else reply.text,
        error=unanswered(reply.thought) if only_thought else None,
        thought=reply.thought,
        finish="stop" if reply.finish == "stop" else "length",
        prompt_tokens=reply.prompt_tokens,
        cached_tokens=min(reply.cached_tokens, reply.prompt_tokens),
        completion_tokens=reply.completion_tokens,
        logprob=reply.logprob if request.logprobs else None,
        seconds=seconds,
    )
    return separate_thought(request, written, opened)


def tokens_in(value: Mapping[str, Any], name: str, server: str) -> int:
    """A number of tokens; 0 when there is none. Raises ReplyError for what is no number."""
    found = value.get(name)
    if found is None:
        return 0
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 40:
        raise ReplyError("engine", f"{name} in the reply of {server} is no number of tokens")
    return found


def logarithm(value: Any, server: str) -> float:
    """The natural logarithm of a probability. Raises ReplyError for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ReplyError("engine", f"a log-probability in the reply of {server} is no number")
    return float(value)

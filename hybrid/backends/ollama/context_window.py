"""How large a context the model is loaded with (`num_ctx`).

Another size makes Ollama reload the model, so sizes are powers of two and only grow. The size is estimated from the
bytes of a prompt. When the estimate is too low, the server returns an error, since truncation is off, and the request
is sent again with twice the size.
"""

from __future__ import annotations

from hybrid.records import Request

SMALLEST = 2048
FIRST = 4096
"""Ollama's own default on most laptops, so a model that is loaded already need not be reloaded."""


def estimated(request: Request) -> int:
    """An upper estimate of the tokens of prompt and completion: two ASCII characters per token, one other byte per
    token.
    """
    texts = [message.content for message in request.messages] or [request.prompt]
    return sum(map(tokens_of, texts)) + 16 * len(texts) + 32 + request.sampling.max_tokens


def tokens_of(text: str) -> int:
    """An upper estimate of the tokens of `text`."""
    size = len(text.encode(errors="replace"))
    others = size - len(text)  # 0 for ASCII
    return (size - others) // 2 + others


class ContextWindow:
    """The current context size, in tokens. `most`: the model's maximum, or the size that the user has set (`fixed`)."""

    def __init__(self, *, most: int, first: int, fixed: bool, overhead: int = 0) -> None:
        self.most = most
        self.size = most if fixed else min(most, max(first, SMALLEST))
        self._overhead = overhead  # tokens that the Modelfile adds to each chat
        self._loaded = self.size

    def size_for(self, request: Request) -> int:
        """The size to send with `request`, grown when the estimate demands it."""
        self._grow_to(estimated(request) + self._overhead)
        return self.size

    def can_grow_beyond(self, tried: int) -> bool:
        """Grow beyond `tried`, which was too small. False when that is the largest size."""
        if self.size <= tried:
            self._grow_to(tried + 1)
        return self.size > tried

    def loaded_with(self, size: int) -> None:
        """Record that the server has enough memory for this size."""
        self._loaded = max(self._loaded, size)

    def refused(self, size: int) -> bool:
        """The server lacks memory for `size`. True when a smaller size worked before; it is the maximum from now on."""
        if size <= self._loaded:
            return False
        self.most = self.size = self._loaded
        return True

    def _grow_to(self, tokens: int) -> None:
        while self.size < min(tokens, self.most):
            self.size = min(2 * self.size, self.most)

"""How large a context the model is loaded with (`num_ctx`).

Another size makes Ollama load the model anew, so sizes are powers of two and only grow. The size is estimated from
the bytes of a prompt; when the estimate was too low the server refuses, since it is told not to cut, and the request
is sent again with twice the size.
"""

from __future__ import annotations

from hybrid.records import Request

SMALLEST = 2048
FIRST = 4096
"""What Ollama itself loads a model with on most laptops: nobody has to load it twice."""


def estimated(request: Request) -> int:
    """Tokens that prompt and completion may need: a high guess, two ASCII characters a token, other scripts more."""
    texts = [message.content for message in request.messages] or [request.prompt]
    return sum(map(tokens_of, texts)) + 16 * len(texts) + 32 + request.sampling.max_tokens


def tokens_of(text: str) -> int:
    """A high guess."""
    size = len(text.encode(errors="replace"))
    others = size - len(text)  # 0 for ASCII
    return (size - others) // 2 + others


class Window:
    """The context size in force. `most` is what the model was made for, or what a person has set (`fixed`)."""

    def __init__(self, *, most: int, first: int, fixed: bool, overhead: int = 0) -> None:
        self.most = most
        self.size = most if fixed else min(most, max(first, SMALLEST))
        self._overhead = overhead  # tokens of what the model's file adds to each chat
        self._loaded = self.size

    def size_for(self, request: Request) -> int:
        """The size to ask with, grown when `request` seems to need it."""
        self._grow_to(estimated(request) + self._overhead)
        return self.size

    def larger_than(self, tried: int) -> bool:
        """Whether there is a larger size to ask with again, after `tried` was too small."""
        if self.size <= tried:
            self._grow_to(tried + 1)
        return self.size > tried

    def worked(self, size: int) -> None:
        """The server has answered with this size: there is memory for it."""
        self._loaded = max(self._loaded, size)

    def refused(self, size: int) -> bool:
        """The server has no memory for `size`. True when a smaller one worked before, and is the most from now on."""
        if size <= self._loaded:
            return False
        self.most = self.size = self._loaded
        return True

    def _grow_to(self, tokens: int) -> None:
        while self.size < min(tokens, self.most):
            self.size = min(2 * self.size, self.most)

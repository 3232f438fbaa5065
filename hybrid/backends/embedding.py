"""An embedder as a backend: requests for embeddings are answered in batches, each with a vector."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from hybrid.protocols import Embedder
from hybrid.records import Completion, Failure, Request
from hybrid.vectors import MOST_DIMENSIONS, rounded

BATCH = 64
"""Most texts that are embedded before one is answered."""

NO_EMBEDDING = Failure("bad-request", "this model embeds texts: a request to it has `embed` and a prompt, no messages")


class EmbeddingBackend:
    """Answers requests with `embed`; any other is a failure."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.model = embedder.model

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """One completion a request, batch by batch."""
        source, more = iter(requests), True
        while more:
            batch: list[Request] = []
            while len(batch) < BATCH and more:
                try:
                    request = next(source)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                batch.append(request)
            yield from self._answered(batch)

    def _answered(self, batch: list[Request]) -> Iterator[Completion]:
        asked = [request for request in batch if request.embed and request.prompt and not request.messages]
        began = time.perf_counter()
        vectors = list(self._embedder.embed([request.prompt for request in asked])) if asked else []
        seconds = (time.perf_counter() - began) / max(1, len(asked))
        for request, vector in zip(asked, vectors, strict=True):
            if isinstance(vector, Failure):
                yield Completion(request.key, error=vector)
            elif len(vector) > MOST_DIMENSIONS:
                yield Completion(request.key, error=Failure("engine", f"a vector has {len(vector):,} dimensions"))
            else:
                yield Completion(request.key, text="", finish="stop", seconds=seconds, vector=rounded(vector))
        for request in batch:
            if not (request.embed and request.prompt and not request.messages):
                yield Completion(request.key, error=NO_EMBEDDING)

    def close(self) -> None:
        """Free the embedder."""
        self._embedder.close()

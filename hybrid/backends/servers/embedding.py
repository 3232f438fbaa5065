"""Texts to vectors by a server: batches in flight, vectors in the order of the texts, a failure for each bad text."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from hybrid.backends.completions import encodable
from hybrid.backends.servers.connection import Connection, Endpoint, Timeouts
from hybrid.backends.servers.replies import ErrorReply, ReplyError, ServerUnavailable
from hybrid.backends.servers.request_pool import Check, Concurrency, RequestPool
from hybrid.backends.servers.retries import ATTEMPTS
from hybrid.errors import Temporary
from hybrid.protocols import Vector
from hybrid.records import Failure

BATCH = 32
"""Texts per request. Most servers compute them one after another, so more only delay its reply."""
IN_FLIGHT = 3

Numbered = tuple[int, list[str]]
Embedded = list[Vector | Failure]


class EmbeddingInterface(Protocol):
    """How one kind of server is asked for vectors."""

    def path_and_body(self, texts: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
        """Where the request for the vectors of these texts goes, and its body."""
        ...

    def numbers_in(self, reply: Any) -> Any:
        """The vectors in a reply, in the order of the texts; anything else where there are none."""
        ...

    def is_busy(self, error: ErrorReply) -> bool:
        """Whether the server asks to be asked again later."""
        ...

    def refusal(self, error: ErrorReply) -> Failure:
        """The failure of a text. Raises HybridError for an error that concerns all texts."""
        ...


@dataclass(slots=True)
class ServerEmbedding:
    """An embedding model of a server. `limit` makes the limit of the requests in flight."""

    interface: EmbeddingInterface
    endpoint: Endpoint
    timeouts: Timeouts
    limit: Callable[[], Concurrency]
    check: Check | None = None
    dimensions: int = 0
    """Of a vector; known after the first."""

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Vectors of the length 1 in the order of the texts. Early results are buffered."""
        pool = RequestPool(
            self._serve,
            enumerate(_batches(texts)),
            endpoint=self.endpoint,
            timeouts=self.timeouts,
            concurrency=self.limit(),
            check=self.check,
        )
        early: dict[int, Embedded] = {}
        next_batch = 0
        for number, found in pool.results():
            early[number] = found
            while next_batch in early:
                yield from early.pop(next_batch)
                next_batch += 1

    async def _serve(self, connection: Connection, batch: Numbered) -> tuple[int, Embedded]:
        number, texts = batch
        found = await self._vectors(connection, texts)
        if isinstance(found, list):
            return number, found
        if len(texts) == 1:
            return number, [found]
        singly = [await self._vectors(connection, [text]) for text in texts]  # to find the text that fails the batch
        return number, [one if isinstance(one, Failure) else one[0] for one in singly]

    async def _vectors(self, connection: Connection, texts: list[str]) -> Embedded | Failure:
        """One vector per text, or the failure of the whole request."""
        path, body = self.interface.path_and_body([encodable(text) for text in texts])
        failed = 0
        while True:
            try:
                return self._checked(self.interface.numbers_in(await connection.post(path, body)), len(texts))
            except ServerUnavailable as error:
                await connection.wait_for_server(error)
            except ErrorReply as error:
                if not self.interface.is_busy(error):
                    return self.interface.refusal(error)
                await connection.wait_while_busy(error)
            except ReplyError as error:
                failed += 1
                if failed == ATTEMPTS:
                    raise Temporary(
                        f"{self.endpoint.name} has stopped embedding: {error.message}",
                        hint=f"{self.endpoint.restart}; then run the same command again",
                    ) from error
                await asyncio.sleep(random.uniform(0.1, 0.5) * failed)

    def _checked(self, found: Any, asked: int) -> Embedded:
        """The vectors. Raises ReplyError when they are none."""
        if not isinstance(found, list) or len(found) != asked:
            raise ReplyError("engine", f"the reply of {self.endpoint.name} does not hold {asked} vectors")
        return [self._vector(one) for one in found]

    def _vector(self, numbers: Any) -> Vector | Failure:
        """A vector scaled to length 1. Raises ReplyError when it is invalid or its number of dimensions has changed."""
        if not isinstance(numbers, list) or not all(type(one) in (float, int) for one in numbers):
            raise ReplyError("engine", f"a vector in the reply of {self.endpoint.name} does not consist of numbers")
        self.dimensions = self.dimensions or len(numbers)
        if len(numbers) != self.dimensions or not numbers:
            raise ReplyError("engine", f"a vector has {len(numbers)} dimensions, those before had {self.dimensions}")
        length = math.hypot(*numbers)
        if not (math.isfinite(length) and length > 0):
            return Failure("engine", f"the vector of a text has the length {length}")
        return tuple(one / length for one in numbers)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    while batch := list(islice(source, BATCH)):
        yield batch

"""The embedder `ollama`: texts to vectors by /api/embed, in batches. A text that is too long is a failure."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, ClassVar

from hybrid.backends.ollama.api import cannot_use, endpoint
from hybrid.backends.ollama.concurrency import MAX_PARALLEL, ConcurrencyLimit
from hybrid.backends.ollama.loading import load_settings_of, timeouts_of
from hybrid.backends.ollama.model_check import refuse_changed
from hybrid.backends.ollama.model_info import ModelInfo, read_model_info
from hybrid.backends.ollama.requests import ATTEMPTS, TOO_LONG
from hybrid.backends.ollama.server import Server
from hybrid.backends.options import whole_number
from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply, ReplyError, ServerUnavailable
from hybrid.backends.servers.request_pool import RequestPool
from hybrid.errors import CannotRun, Temporary
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

BATCH = 32
"""Texts per request. The server computes them one after another, so more only delay its reply."""

IN_FLIGHT = 3
MAX_CONTEXT = 8192
"""Upper limit of the context, in tokens: a longer one needs more memory."""

Numbered = tuple[int, list[str]]
Embedded = list[Vector | Failure]


class OllamaEmbedder:
    """An embedding model of a local Ollama server."""

    options: ClassVar[Mapping[str, str]] = {
        "host": "the server, HOST:PORT or a URL (default: OLLAMA_HOST, else 127.0.0.1:11434)",
        "context": "tokens of a text (default: the model's own, and not more than 8192)",
        "parallel": "requests in flight (default 3)",
        "threads": "CPU threads of the model (default: the server's choice)",
        "keep_alive": "how long the model stays loaded after the last request (default 30m)",
        "load_timeout": "seconds for loading the model (default 600)",
        "first_timeout": "seconds until a reply (default 600)",
        "idle_timeout": "seconds between two parts of a reply (default 60)",
        "patience": "seconds to wait for a server that has become unavailable (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._timeouts = timeouts_of(options)
        self._parallel = whole_number(options, "parallel", IN_FLIGHT, low=1, high=MAX_PARALLEL)
        self._dimensions = 0  # dimensions of a vector; known after the first
        load_settings = load_settings_of(options)
        context = whole_number(options, "context", MAX_CONTEXT, low=16, high=1 << 24)
        server = Server(options.get("host", ""))
        try:
            info = read_model_info(server, model)
            _refuse_without_embedding(info)
            self._body = {**load_settings.body(model, min(context, info.context)), "truncate": False}
            server.ask("/api/embed", {**self._body, "input": []}, seconds=self._timeouts.load)  # loads the model
        except ErrorReply as error:
            raise cannot_use(error, model) from error
        finally:
            server.close()
        self._url = server.url
        self.model = Model(name=model, digest=info.digest, context=min(context, info.context), about=info.about())

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Vectors in the order of the texts. Several batches are in flight; early results are buffered."""
        pool = RequestPool(
            self._serve,
            enumerate(_batches(texts)),
            endpoint=endpoint(self._url),
            timeouts=self._timeouts,
            concurrency=ConcurrencyLimit(self._parallel),
            check=partial(refuse_changed, name=self.model.name, digest=self.model.digest),
        )
        early: dict[int, Embedded] = {}
        next_batch = 0
        for number, found in pool.results():
            early[number] = found
            while next_batch in early:
                yield from early.pop(next_batch)
                next_batch += 1

    def close(self) -> None:
        """There is nothing to free here: the server unloads the model after `keep_alive`."""

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
        body, failed = {**self._body, "input": [_encodable(text) for text in texts]}, 0
        while True:
            try:
                return self._checked(await connection.post("/api/embed", body), len(texts))
            except ServerUnavailable as error:
                await connection.wait_for_server(error)
            except ErrorReply as error:
                if error.status != 503:
                    return self._refusal(error)
                await connection.wait_while_busy(error)
            except ReplyError as error:
                failed += 1
                if failed == ATTEMPTS:
                    raise Temporary(
                        f"Ollama has stopped embedding: {error.message}",
                        hint="restart it, its log says why; then run the same command again",
                    ) from error
                await asyncio.sleep(random.uniform(0.1, 0.5) * failed)

    def _refusal(self, error: ErrorReply) -> Failure:
        """The failure of a text. Raises HybridError for an error that concerns all texts."""
        if any(words in error.message for words in TOO_LONG):
            return Failure("too-long", f"a text has more tokens than the {self.model.context} of the context")
        if "not found" in error.message or "system memory" in error.message or error.status in (401, 403):
            raise cannot_use(error, self.model.name)
        return Failure("engine", error.message)

    def _checked(self, reply: Any, asked: int) -> Embedded:
        """The vectors in a reply. Raises ReplyError when it is not a valid reply."""
        found = reply.get("embeddings") if isinstance(reply, dict) else None
        if not isinstance(found, list) or len(found) != asked:
            raise ReplyError("engine", f"Ollama's reply does not hold {asked} vectors")
        return [self._vector(one) for one in found]

    def _vector(self, numbers: Any) -> Vector | Failure:
        """A vector scaled to length 1. Raises ReplyError when it is invalid or its number of dimensions has changed."""
        if not isinstance(numbers, list) or not all(type(one) in (float, int) for one in numbers):
            raise ReplyError("engine", "a vector in Ollama's reply does not consist of numbers")
        self._dimensions = self._dimensions or len(numbers)
        if len(numbers) != self._dimensions or not numbers:
            raise ReplyError("engine", f"a vector has {len(numbers)} dimensions, those before had {self._dimensions}")
        length = math.hypot(*numbers)
        if not (math.isfinite(length) and length > 0):
            return Failure("engine", f"the vector of a text has the length {length}")
        return tuple(one / length for one in numbers)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    while batch := list(islice(source, BATCH)):
        yield batch


def _encodable(text: str) -> str:
    """`text` with unpaired surrogates, which UTF-8 cannot encode, replaced."""
    return text.encode("utf-8", "replace").decode()


def _refuse_without_embedding(info: ModelInfo) -> None:
    if "embedding" not in info.capabilities:
        raise CannotRun(
            f"the model '{clean_line(info.name)}' is not made for embedding texts",
            hint="take an embedding model, such as all-minilm or nomic-embed-text: hybrid models pull NAME",
        )

"""Texts to vectors by /api/embed, in batches; a text that is too long is a failure, never cut."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from hybrid.backends.ollama.calls import ATTEMPTS, TOO_LONG
from hybrid.backends.ollama.client import Refused, cannot_use
from hybrid.backends.ollama.link import Gone, Link, Trouble
from hybrid.backends.ollama.opening import loading_of, waits_of
from hybrid.backends.ollama.pace import MOST, Pace
from hybrid.backends.ollama.request_pool import RequestPool
from hybrid.backends.ollama.server import Server
from hybrid.backends.ollama.tag import Tag, read_tag
from hybrid.backends.options import whole_number
from hybrid.errors import CannotRun, Temporary
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

BATCH = 32
"""Texts in a request. The server computes them one after the other; more only make its replies longer."""

IN_FLIGHT = 3
LONGEST = 8192
"""Tokens of a text, when neither the model nor an option says less: a longer context needs memory."""

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
        "patience": "seconds that a server may be away in the middle of the work (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._waits = waits_of(options)
        self._parallel = whole_number(options, "parallel", IN_FLIGHT, low=1, high=MOST)
        self._size = 0  # numbers in a vector; known after the first
        loading = loading_of(options)
        context = whole_number(options, "context", LONGEST, low=16, high=1 << 24)
        server = Server(options.get("host", ""))
        try:
            tag = read_tag(server, model)
            _refuse_without_embedding(tag)
            self._body = {**loading.body(model, min(context, tag.context)), "truncate": False}
            server.ask("/api/embed", {**self._body, "input": []}, seconds=self._waits.load)  # loads the model
        except Refused as error:
            raise cannot_use(error, model) from error
        finally:
            server.close()
        self._url = server.url
        self.model = Model(name=model, digest=tag.digest, context=min(context, tag.context), about=tag.about())

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Several batches are in flight; what comes early is kept until it is its turn."""
        flights = RequestPool(
            self._serve,
            enumerate(_batches(texts)),
            url=self._url,
            waits=self._waits,
            pace=Pace(self._parallel),
            model=(self.model.name, self.model.digest),
        )
        early: dict[int, Embedded] = {}
        turn = 0
        for number, found in flights.results():
            early[number] = found
            while turn in early:
                yield from early.pop(turn)
                turn += 1

    def close(self) -> None:
        """Nothing is held here; the server unloads the model after `keep_alive`."""

    async def _serve(self, link: Link, batch: Numbered) -> tuple[int, Embedded]:
        number, texts = batch
        found = await self._vectors(link, texts)
        if isinstance(found, list):
            return number, found
        if len(texts) == 1:
            return number, [found]
        singly = [await self._vectors(link, [text]) for text in texts]  # one of them spoils the batch: which?
        return number, [one if isinstance(one, Failure) else one[0] for one in singly]

    async def _vectors(self, link: Link, texts: list[str]) -> Embedded | Failure:
        """One vector a text, or why the request as a whole gives none."""
        body, failed = {**self._body, "input": [_sendable(text) for text in texts]}, 0
        while True:
            try:
                return self._checked(await link.post("/api/embed", body), len(texts))
            except Gone as error:
                await link.wait_for_server(error)
            except Refused as error:
                if error.status != 503:
                    return self._refusal(error)
                await link.wait_for_room(error)
            except Trouble as error:
                failed += 1
                if failed == ATTEMPTS:
                    raise Temporary(
                        f"Ollama does not embed any more: {error.message}",
                        hint="restart it, its log says why; then run the same command again",
                    ) from error
                await asyncio.sleep(random.uniform(0.1, 0.5) * failed)

    def _refusal(self, error: Refused) -> Failure:
        """What an error of the server means for a text; raises when it means the end for all."""
        if any(words in error.message for words in TOO_LONG):
            return Failure("too-long", f"a text has more tokens than the {self.model.context} of the context")
        if "not found" in error.message or "system memory" in error.message or error.status in (401, 403):
            raise cannot_use(error, self.model.name)
        return Failure("engine", error.message)

    def _checked(self, reply: Any, asked: int) -> Embedded:
        """The vectors in a reply. Raises Trouble when it is not what Ollama sends."""
        found = reply.get("embeddings") if isinstance(reply, dict) else None
        if not isinstance(found, list) or len(found) != asked:
            raise Trouble("engine", f"Ollama's reply does not hold {asked} vectors")
        return [self._vector(one) for one in found]

    def _vector(self, numbers: Any) -> Vector | Failure:
        """Of length 1. Raises Trouble when it is none, or has another number of dimensions than those before."""
        if not isinstance(numbers, list) or not all(type(one) in (float, int) for one in numbers):
            raise Trouble("engine", "a vector in Ollama's reply does not consist of numbers")
        self._size = self._size or len(numbers)
        if len(numbers) != self._size or not numbers:
            raise Trouble("engine", f"a vector has {len(numbers)} dimensions, those before had {self._size}")
        length = math.hypot(*numbers)
        if not (math.isfinite(length) and length > 0):
            return Failure("engine", f"the vector of a text has the length {length}")
        return tuple(one / length for one in numbers)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    while batch := list(islice(source, BATCH)):
        yield batch


def _sendable(text: str) -> str:
    """UTF-8 cannot hold half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def _refuse_without_embedding(tag: Tag) -> None:
    if "embedding" not in tag.capabilities:
        raise CannotRun(
            f"the model '{clean_line(tag.name)}' is not made for embedding texts",
            hint="take an embedding model, such as all-minilm or nomic-embed-text: hybrid models pull NAME",
        )

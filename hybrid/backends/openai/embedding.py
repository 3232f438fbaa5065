"""The embedder `openai`: texts to vectors by /embeddings of any server with OpenAI's interface, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from hybrid.backends.openai.address import OPTIONS, endpoint_of
from hybrid.backends.openai.chat import MOST, timeouts_of
from hybrid.backends.openai.limit import RequestLimit
from hybrid.backends.openai.model_check import refuse_changed
from hybrid.backends.openai.refusals import cannot_use, is_about_all, is_busy, is_too_long
from hybrid.backends.openai.served_model import read_served_model
from hybrid.backends.options import whole_number
from hybrid.backends.servers.connection import Endpoint, Timeouts
from hybrid.backends.servers.embedding import IN_FLIGHT, ServerEmbedding
from hybrid.backends.servers.questions import Questions
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

PATH = "/embeddings"
TOO_LARGE = "too large to process"
"""How llama.cpp's server refuses a text that is longer than its batch."""
NO_EMBEDDINGS = (400, 404, 405, 422, 501)
"""Statuses of a server that embeds nothing: llama.cpp's says 501 unless it was started with --embeddings."""


class OpenaiEmbedder:
    """An embedding model of a server with OpenAI's HTTP interface."""

    options: ClassVar[Mapping[str, str]] = {
        **OPTIONS,
        "parallel": "requests in flight (default 3); fewer while the server is busy",
        "first_timeout": "seconds until a reply (default 600)",
        "idle_timeout": "seconds between two parts of a reply (default 60)",
        "busy_timeout": "seconds to go on asking a server that says it is busy (default 600)",
        "patience": "seconds to wait for a server that has become unavailable (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._endpoint, timeouts = endpoint_of(options), timeouts_of(options)
        parallel = whole_number(options, "parallel", IN_FLIGHT, low=1, high=MOST)
        served = read_served_model(self._endpoint, model)
        self.model = Model(model, served.digest, served.context, served.about(self._endpoint))
        check = partial(refuse_changed, model=served) if served.kind else None
        self._refuse_without_embedding(self._endpoint, timeouts)
        self._embedding = ServerEmbedding(self, self._endpoint, timeouts, partial(RequestLimit, parallel), check)

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Vectors in the order of the texts."""
        return self._embedding.embed(texts)

    def close(self) -> None:
        """There is nothing to free here: the model is the server's."""

    def path_and_body(self, texts: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
        return PATH, {"model": self.model.name, "input": list(texts), "encoding_format": "float"}

    def numbers_in(self, reply: Any) -> Any:
        """The vectors by their `index`, in which order servers need not keep."""
        rows = reply.get("data") if isinstance(reply, dict) else None
        by_place = {
            row["index"]: row.get("embedding")
            for row in (rows if isinstance(rows, list) else ())
            if isinstance(row, dict) and type(row.get("index")) is int
        }
        return [by_place[place] for place in sorted(by_place)] if sorted(by_place) == [*range(len(by_place))] else None

    def is_busy(self, error: ErrorReply) -> bool:
        return is_busy(error)

    def refusal(self, error: ErrorReply) -> Failure:
        """The failure of a text. Raises HybridError for an error that concerns all texts."""
        if is_too_long(error) or TOO_LARGE in error.message:
            told = f" of {self.model.context} tokens" if self.model.context else ""
            return Failure("too-long", f"a text does not fit into the context{told}: {error.message}")
        if is_about_all(error):
            raise cannot_use(error, self._endpoint, self.model.name)
        return Failure("engine", error.message)

    def _refuse_without_embedding(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        """Raise CannotRun when the server gives no vector, before many texts are read."""
        path, body = self.path_and_body(["a"])
        with Questions(endpoint, timeouts) as questions:
            try:
                questions.ask(path, body)
            except ErrorReply as error:
                if error.status not in NO_EMBEDDINGS:
                    raise cannot_use(error, endpoint, self.model.name) from error
                raise CannotRun(
                    f"{endpoint.name} embeds no texts with '{clean_line(self.model.name)[:200]}': {error.message}",
                    hint="name an embedding model; llama-server needs --embeddings --pooling mean",
                ) from error

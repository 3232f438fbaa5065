"""The embedder `ollama`: texts to vectors by /api/embed, in batches. A text that is too long is a failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from hybrid.backends.ollama.api import cannot_use, endpoint
from hybrid.backends.ollama.concurrency import MAX_PARALLEL, ConcurrencyLimit
from hybrid.backends.ollama.loading import load_settings_of, timeouts_of
from hybrid.backends.ollama.model_check import refuse_changed
from hybrid.backends.ollama.model_info import ModelInfo, read_model_info
from hybrid.backends.ollama.requests import TOO_LONG
from hybrid.backends.ollama.server import Server
from hybrid.backends.options import whole_number
from hybrid.backends.servers.embedding import IN_FLIGHT, ServerEmbedding
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model, Vector
from hybrid.records import Failure

MAX_CONTEXT = 8192
"""Upper limit of the context, in tokens: a longer one needs more memory."""


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
        timeouts = timeouts_of(options)
        parallel = whole_number(options, "parallel", IN_FLIGHT, low=1, high=MAX_PARALLEL)
        load_settings = load_settings_of(options)
        context = whole_number(options, "context", MAX_CONTEXT, low=16, high=1 << 24)
        server = Server(options.get("host", ""))
        try:
            info = read_model_info(server, model)
            _refuse_without_embedding(info)
            self._body = {**load_settings.body(model, min(context, info.context)), "truncate": False}
            server.ask("/api/embed", {**self._body, "input": []}, seconds=timeouts.load)  # loads the model
        except ErrorReply as error:
            raise cannot_use(error, model) from error
        finally:
            server.close()
        self.model = Model(name=model, digest=info.digest, context=min(context, info.context), about=info.about())
        check = partial(refuse_changed, name=model, digest=info.digest)
        limit = partial(ConcurrencyLimit, parallel)
        self._embedding = ServerEmbedding(self, endpoint(server.url), timeouts, limit, check)

    def embed(self, texts: Iterable[str]) -> Iterator[Vector | Failure]:
        """Vectors in the order of the texts."""
        return self._embedding.embed(texts)

    def close(self) -> None:
        """There is nothing to free here: the server unloads the model after `keep_alive`."""

    def path_and_body(self, texts: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
        return "/api/embed", {**self._body, "input": list(texts)}

    def numbers_in(self, reply: Any) -> Any:
        return reply.get("embeddings") if isinstance(reply, dict) else None

    def is_busy(self, error: ErrorReply) -> bool:
        return error.status == 503

    def refusal(self, error: ErrorReply) -> Failure:
        """The failure of a text. Raises HybridError for an error that concerns all texts."""
        if any(words in error.message for words in TOO_LONG):
            return Failure("too-long", f"a text has more tokens than the {self.model.context} of the context")
        if "not found" in error.message or "system memory" in error.message or error.status in (401, 403):
            raise cannot_use(error, self.model.name)
        return Failure("engine", error.message)


def _refuse_without_embedding(info: ModelInfo) -> None:
    if "embedding" not in info.capabilities:
        raise CannotRun(
            f"the model '{clean_line(info.name)}' is not made for embedding texts",
            hint="take an embedding model, such as all-minilm or nomic-embed-text: hybrid models pull NAME",
        )

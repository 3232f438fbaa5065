"""The backend `ollama`: chats by /api/chat, raw prompts by /api/generate, always streamed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import ClassVar

from hybrid.backends.ollama.api import endpoint
from hybrid.backends.ollama.concurrency import MAX_PARALLEL, ConcurrencyLimit
from hybrid.backends.ollama.context_window import FIRST, ContextWindow
from hybrid.backends.ollama.loading import (
    load,
    load_settings_of,
    loaded_context,
    timeouts_of,
    with_rendered_template,
)
from hybrid.backends.ollama.model_check import refuse_changed
from hybrid.backends.ollama.model_info import read_model_info
from hybrid.backends.ollama.requests import RequestBuilder
from hybrid.backends.ollama.server import Server
from hybrid.backends.options import whole_number
from hybrid.backends.servers.request_pool import RequestPool
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model
from hybrid.records import Completion, Request

LOG = logging.getLogger("hybrid")


class OllamaBackend:
    """A model of a local Ollama server. The number of requests in flight adapts to the server."""

    options: ClassVar[Mapping[str, str]] = {
        "host": "the server, HOST:PORT or a URL (default: OLLAMA_HOST, else 127.0.0.1:11434)",
        "context": "tokens of prompt and completion together (default: grows as needed, up to the model's own)",
        "parallel": "requests in flight (default: follows the server)",
        "threads": "CPU threads of the model (default: the server's choice); fewer on a busy machine",
        "keep_alive": "how long the model stays loaded after the last request (default 30m)",
        "load_timeout": "seconds for loading the model (default 600)",
        "first_timeout": "seconds until a reply's first token (default 600)",
        "idle_timeout": "seconds between two tokens (default 60)",
        "patience": "seconds to wait for a server that has become unavailable (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._timeouts = timeouts_of(options)
        self._parallel = whole_number(options, "parallel", 0, low=1, high=MAX_PARALLEL)
        load_settings = load_settings_of(options)
        context = whole_number(options, "context", 0, low=64, high=1 << 24)
        server = Server(options.get("host", ""))
        try:
            info = read_model_info(server, model)
            if "completion" not in info.capabilities:
                raise CannotRun(
                    f"the model '{clean_line(model)}' does not generate text, it is for {_list(info.capabilities)}",
                    hint="take a model that can chat; `ollama show NAME` tells what each can",
                )
            most = min(context or info.context, info.context)
            first = max(FIRST, loaded_context(server, model))
            window = ContextWindow(most=most, first=first, fixed=bool(context), overhead=info.overhead)
            load(server, info, window, load_settings, self._timeouts.load)
            info = with_rendered_template(server, info, window, load_settings)
        finally:
            server.close()
        self._url = server.url
        self._builder = RequestBuilder(info, window, load_settings)
        self.model = Model(name=model, digest=info.digest, context=most, about=info.about())
        info.chat_template.warn()
        if info.dated:
            LOG.warning("the template of '%s' writes the date of the day into each prompt", clean_line(model))

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Completions as they finish; one more request is in flight than the server computes at a time."""
        concurrency = ConcurrencyLimit(self._parallel)
        return RequestPool(
            partial(self._builder.answer, concurrency=concurrency),
            requests,
            endpoint=endpoint(self._url),
            timeouts=self._timeouts,
            concurrency=concurrency,
            check=partial(refuse_changed, name=self.model.name, digest=self.model.digest),
        ).results()

    def close(self) -> None:
        """There is nothing to free here: the server unloads the model after `keep_alive`."""


def digest_of_tag(model: str, options: Mapping[str, str]) -> str:
    """The digest of a model on the server that these backend options name. Raises CannotRun, Temporary."""
    server = Server(options.get("host", ""))
    try:
        return read_model_info(server, model).digest
    finally:
        server.close()


def _list(words: Iterable[str]) -> str:
    return clean_line(", ".join(sorted(words))) or "no capability that it lists"

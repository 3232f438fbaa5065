"""The backend `ollama`: chats by /api/chat, raw texts by /api/generate, always streamed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import ClassVar

from hybrid.backends.ollama.calls import Calls
from hybrid.backends.ollama.opening import load, loaded_context, loading_of, rendered, waits_of
from hybrid.backends.ollama.pace import MOST, Pace
from hybrid.backends.ollama.request_pool import RequestPool
from hybrid.backends.ollama.server import Server
from hybrid.backends.ollama.tag import read_tag
from hybrid.backends.ollama.window import FIRST, Window
from hybrid.backends.options import whole_number
from hybrid.errors import CannotRun
from hybrid.machine.terminal import clean_line
from hybrid.protocols import Model
from hybrid.records import Completion, Request

LOG = logging.getLogger("hybrid")


class OllamaBackend:
    """A model of a local Ollama server. Requests wait in the server; how many are in flight follows what it does."""

    options: ClassVar[Mapping[str, str]] = {
        "host": "the server, HOST:PORT or a URL (default: OLLAMA_HOST, else 127.0.0.1:11434)",
        "context": "tokens of prompt and completion together (default: grows as needed, up to the model's own)",
        "parallel": "requests in flight (default: follows the server)",
        "threads": "CPU threads of the model (default: the server's choice); fewer on a busy machine",
        "keep_alive": "how long the model stays loaded after the last request (default 30m)",
        "load_timeout": "seconds for loading the model (default 600)",
        "first_timeout": "seconds until a reply's first token (default 600)",
        "idle_timeout": "seconds between two tokens (default 60)",
        "patience": "seconds that a server may be away in the middle of the work (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self._waits = waits_of(options)
        self._parallel = whole_number(options, "parallel", 0, low=1, high=MOST)
        loading = loading_of(options)
        context = whole_number(options, "context", 0, low=64, high=1 << 24)
        server = Server(options.get("host", ""))
        try:
            tag = read_tag(server, model)
            if "completion" not in tag.capabilities:
                raise CannotRun(
                    f"the model '{clean_line(model)}' does not write texts, it is for {_list(tag.capabilities)}",
                    hint="take a model that can chat; `ollama show NAME` tells what each can",
                )
            most = min(context or tag.context, tag.context)
            first = max(FIRST, loaded_context(server, model))
            window = Window(most=most, first=first, fixed=bool(context), overhead=tag.overhead)
            load(server, tag, window, loading, self._waits.load)
            tag = rendered(server, tag, window, loading)
        finally:
            server.close()
        self._url = server.url
        self._calls = Calls(tag, window, loading)
        self.model = Model(name=model, digest=tag.digest, context=most, about=tag.about())
        tag.form.warn()
        if tag.dated:
            LOG.warning("the template of '%s' writes the date of the day into each prompt", clean_line(model))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Keep the server busy with one request more than it works on at a time."""
        pace = Pace(self._parallel)
        return RequestPool(
            partial(self._calls.answer, pace=pace),
            requests,
            url=self._url,
            waits=self._waits,
            pace=pace,
            model=(self.model.name, self.model.digest),
        ).results()

    def close(self) -> None:
        """Nothing is held here; the server unloads the model after `keep_alive`."""


def digest_of_tag(model: str, options: Mapping[str, str]) -> str:
    """The digest of a model on the server that a backend with these options asks. Raises CannotRun, Temporary."""
    server = Server(options.get("host", ""))
    try:
        return read_tag(server, model).digest
    finally:
        server.close()


def _list(words: Iterable[str]) -> str:
    return clean_line(", ".join(sorted(words))) or "nothing that it tells"

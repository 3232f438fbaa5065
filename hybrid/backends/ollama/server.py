"""Requests to an Ollama server other than answers: its version, its models, loaded models, pulling a model.

They go through Ollama's Python package over our own transport. The package has no type for the version, and its
description of a model omits the system text, messages and the remote host: these are read from the reply itself.
Answers go through `connection`, since the package can neither tell a slow server from a stuck one nor detect a
truncated reply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import ollama

from hybrid.backends.ollama.api import address
from hybrid.backends.ollama.transport import BoundedTransport
from hybrid.errors import BadData, CannotRun
from hybrid.machine.terminal import clean_line

REPLY_SECONDS = 30.0
"""Time-out of requests that need no model."""


class Server:
    """One request at a time. Every method raises Temporary when there is no answer, BadData and ErrorReply."""

    def __init__(self, host: str = "", *, seconds: float = REPLY_SECONDS) -> None:
        self.url = address(host)
        self._seconds = seconds
        try:
            self._transport = BoundedTransport(self.url, seconds)
            self.package = ollama.Client(self.url, transport=self._transport, timeout=seconds, follow_redirects=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise CannotRun(
                f"'{clean_line(self.url)}' is no address of an Ollama server: {error}",
                hint="OLLAMA_HOST, or --backend-option host=, is HOST:PORT or http://HOST:PORT",
            ) from error

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 0) -> dict[str, Any]:
        """The JSON object at `path`, without the package; a POST when there is a body."""
        return self._transport.ask(path, body, seconds or self._seconds)

    def version(self) -> str:
        """The server's version, such as '0.24.0'; "" when the reply has none."""
        found = self.ask("/api/version").get("version")
        return clean_line(found)[:40] if isinstance(found, str) else ""

    def models(self) -> Sequence[ollama.ListResponse.Model]:
        """The models in the server's store."""
        with _typed("/api/tags"):
            return self.package.list().models

    def loaded(self) -> Sequence[ollama.ProcessResponse.Model]:
        """The models that are loaded into memory."""
        with _typed("/api/ps"):
            return self.package.ps().models

    def describe(self, model: str) -> Mapping[str, Any]:
        """The server's full description of a model."""
        with _typed("/api/show"):
            self.package.show(model)
        return self._transport.value

    def pull(self, model: str, *, insecure: bool = False) -> Iterator[ollama.ProgressResponse]:
        """Have the server pull a model, and yield its progress; closing the iterator stops the pull."""
        with _typed("/api/pull"):
            yield from self.package.pull(model, insecure=insecure, stream=True)

    def close(self) -> None:
        self._transport.close()


@contextmanager
def _typed(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the package's types, by pydantic
        reason = clean_line(str(error))[:300]
        raise BadData(
            f"Ollama's reply to {path} is not as it should be: {reason}", hint="is that server Ollama?"
        ) from error

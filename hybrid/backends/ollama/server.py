"""An Ollama server and what it is asked beside answers: its version, its models, what is loaded, bringing a model.

By Ollama's own Python package, within our bounds. Its types have no version, and leave out of a model's description
what tells of a system text, of messages and of a cloud: that is read from the reply itself. Answers do not come this
way but by `link`: the package cannot tell a server that is slow from one that is stuck, or a reply that was cut short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import ollama

from hybrid.backends.ollama.bounds import Bounds
from hybrid.backends.ollama.client import address
from hybrid.errors import BadData, CannotRun
from hybrid.machine.terminal import clean_line

QUICK_SECONDS = 30.0
"""For questions that need no model."""


class Server:
    """One question at a time. What each raises: Temporary when it does not answer, BadData, Refused."""

    def __init__(self, host: str = "", *, seconds: float = QUICK_SECONDS) -> None:
        self.url = address(host)
        self._seconds = seconds
        try:
            self._bounds = Bounds(self.url, seconds)
            self.package = ollama.Client(self.url, transport=self._bounds, timeout=seconds, follow_redirects=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise CannotRun(
                f"'{clean_line(self.url)}' is no address of an Ollama server: {error}",
                hint="OLLAMA_HOST, or --backend-option host=, is HOST:PORT or http://HOST:PORT",
            ) from error

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 0) -> dict[str, Any]:
        """The JSON object at `path`, for what belongs to answers; a POST when there is a body."""
        return self._bounds.ask(path, body, seconds or self._seconds)

    def version(self) -> str:
        """As the server tells it, such as '0.24.0'."""
        found = self.ask("/api/version").get("version")
        return clean_line(found)[:40] if isinstance(found, str) else ""

    def models(self) -> Sequence[ollama.ListResponse.Model]:
        """What is in the server's store."""
        with _typed("/api/tags"):
            return self.package.list().models

    def loaded(self) -> Sequence[ollama.ProcessResponse.Model]:
        """What is in memory."""
        with _typed("/api/ps"):
            return self.package.ps().models

    def describe(self, model: str) -> Mapping[str, Any]:
        """All that the server tells of a model."""
        with _typed("/api/show"):
            self.package.show(model)
        return self._bounds.value

    def pull(self, model: str, *, insecure: bool = False) -> Iterator[ollama.ProgressResponse]:
        """Have the server fetch a model, and hear how far it is; who stops listening stops it."""
        with _typed("/api/pull"):
            yield from self.package.pull(model, insecure=insecure, stream=True)

    def close(self) -> None:
        self._bounds.close()


@contextmanager
def _typed(path: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the package's types, by pydantic
        reason = clean_line(str(error))[:300]
        raise BadData(
            f"Ollama's reply to {path} is not as it should be: {reason}", hint="is that server Ollama?"
        ) from error

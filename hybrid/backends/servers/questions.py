"""Single questions to a server, one after another, outside of a pool: what a model is before it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from hybrid.backends.servers.connection import Connection, Endpoint, Timeouts
from hybrid.backends.servers.replies import ReplyError, ServerUnavailable
from hybrid.backends.servers.request_pool import refuse_inside_a_loop, run_interruptibly
from hybrid.errors import BadData


class Questions:
    """A connection for a few questions, in an event loop of its own. A context manager."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        refuse_inside_a_loop()
        self.endpoint = endpoint
        self._loop = asyncio.new_event_loop()
        self._connection = Connection(endpoint, timeouts)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object at `path`; a POST when there is a body.

        Raises Temporary when there is no server, BadData for an invalid reply, ErrorReply.
        """
        call = self._connection.get(path) if body is None else self._connection.post(path, body)
        try:
            found = run_interruptibly(self._loop, call)
        except ServerUnavailable as error:
            raise self.endpoint.unreachable(self.endpoint.url, error) from error
        except ReplyError as error:
            raise BadData(error.message, hint=f"what runs at {self.endpoint.url}?") from error
        if not isinstance(found, dict):
            raise BadData(f"the reply of {self.endpoint.name} to {path} is not a JSON object")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run_interruptibly(self._loop, self._connection.close(), uninterruptible=True)
        self._loop.close()

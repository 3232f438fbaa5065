"""One request to a server until it is answered: sent again when the server is away, is busy or breaks its reply off."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod

from hybrid.backends.servers.connection import Connection
from hybrid.backends.servers.replies import ErrorReply, ReplyError, ServerUnavailable
from hybrid.records import Completion, Failure, Request

ATTEMPTS = 3


class RetriedRequest(ABC):
    """One request, with the number of its failed attempts."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection, self._request = connection, request
        self._failures = 0
        self._started = 0.0

    async def completion(self) -> Completion:
        """The answer, or the failure of this request. Raises HybridError for what concerns all requests."""
        outcome: Completion | Failure | None = None
        while outcome is None:
            self._started = time.monotonic()
            outcome = await self._attempt()
        return outcome if isinstance(outcome, Completion) else Completion(self._request.key, error=outcome)

    async def _attempt(self) -> Completion | Failure | None:
        try:
            return await self._sent()
        except ServerUnavailable as error:
            await self._connection.wait_for_server(error)
            return None
        except ErrorReply as error:
            return await self._refused(error)
        except ReplyError as error:
            return await self._broken(error)

    @abstractmethod
    async def _sent(self) -> Completion | Failure | None:
        """Send the request once. As below, None means that it must be sent again."""

    @abstractmethod
    async def _refused(self, error: ErrorReply) -> Failure | None:
        """What an error reply means. Raises HybridError for what concerns all requests."""

    async def _broken(self, error: ReplyError) -> Failure | None:
        """What a reply means that broke off, or that cannot be read."""
        return await self._retry(error.kind, error.message)

    @abstractmethod
    async def _check_server(self, message: str) -> None:
        """Raise Temporary when it is the server that fails, and not only this request; `message` says how it failed."""

    async def _retry(self, kind: str, message: str) -> Failure | None:
        """Wait, and return None to retry; after ATTEMPTS the failure. Raises what `_check_server` raises."""
        self._failures += 1
        if self._failures < ATTEMPTS:
            await asyncio.sleep(random.uniform(0.1, 0.5) * self._failures)
            return None
        await self._check_server(message)
        return Failure(kind, f"{message} ({self._failures} attempts)")

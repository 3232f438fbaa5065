"""The asynchronous connection to the server: requests with time-outs, and waiting for a server that is unavailable."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from hybrid.backends.ollama.api import MAX_REPLY, ErrorReply, certificates, error_in, not_reachable, trusts_proxies
from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary

MAX_LINE = 4 << 20
"""Bytes of one line of a reply; the last one may hold a number per token of the prompt."""

CHECK_SECONDS = 10.0


class ReplyError(Exception):
    """A reply that is incomplete or invalid; the request is retried. `kind` is that of the `Failure` it becomes."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class TruncatedReply(ReplyError):
    """A stream that ended without an error, but without its last line."""


class ServerUnavailable(Exception):
    """No connection: nothing listens at the server's address."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a model to load, for the first token, between two tokens, and for an unavailable server."""

    load: float = 600.0
    first: float = 600.0
    idle: float = 60.0
    patience: float = 30.0


class Connection:
    """Requests to one server. It must be used and closed in the event loop in which it was created."""

    def __init__(self, url: str, timeouts: Timeouts) -> None:
        self._url = url
        self._timeouts = timeouts
        self._active_timeouts: set[asyncio.Timeout] = set()
        self._unavailable_since: float | None = None
        self._busy_since: float | None = None
        self.last_received = 0.0
        """When the last data arrived, in the event loop's time."""
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(None, connect=CHECK_SECONDS),
            trust_env=trusts_proxies(url),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            headers={"Accept-Encoding": "identity"},
            verify=certificates(url),
        )

    async def close(self) -> None:
        await self._client.aclose()

    def resume(self, pause: float) -> None:
        """Extend all running time-outs by `pause` seconds, in which the event loop did not run."""
        for limit in self._active_timeouts:
            when = limit.when()
            if when is not None and not limit.expired():
                limit.reschedule(when + pause)
        self._unavailable_since = None if self._unavailable_since is None else self._unavailable_since + pause
        self._busy_since = None if self._busy_since is None else self._busy_since + pause

    async def get(self, path: str) -> Any:
        """The JSON value at `path`. Raises ServerUnavailable, ReplyError, ErrorReply."""
        whole = ReplyBuffer()
        await self._exchange("GET", path, None, whole.add, Timeouts(first=CHECK_SECONDS, idle=CHECK_SECONDS))
        return whole.value(path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON reply to a POST of `body`. Raises ServerUnavailable, ReplyError, ErrorReply."""
        whole = ReplyBuffer()
        await self._exchange("POST", path, body, whole.add, self._timeouts)
        return whole.value(path)

    async def stream(self, path: str, body: Mapping[str, Any], take: Callable[[bytes], bool]) -> None:
        """POST `body` and hand each line of the reply to `take` until it returns true.

        Raises ServerUnavailable, ReplyError, ErrorReply.
        """
        lines = LineSplitter(take)
        await self._exchange("POST", path, body, lines.add, self._timeouts, over=lambda: lines.done)
        lines.end()

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        add: Callable[[bytes], None],
        timeouts: Timeouts,
        *,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        waiting = timeouts.first
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(timeouts.first) as limit:
                self._active_timeouts.add(limit)
                try:
                    async with self._client.stream(method, path, json=body) as reply:
                        self._unavailable_since = None
                        if reply.status_code != 200:
                            raise ErrorReply(reply.status_code, error_in(await _beginning(reply)))
                        async for chunk in reply.aiter_raw():
                            if not over():  # the rest is read briefly, so that the connection can be reused
                                add(chunk)
                                self.last_received = clock()
                            waiting = 1.0 if over() else timeouts.idle
                            limit.reschedule(clock() + waiting)
                finally:
                    self._active_timeouts.discard(limit)
            self._busy_since = None
        except TimeoutError as error:
            if not over():
                raise ReplyError("stalled", f"nothing came from Ollama for {waiting:g} seconds") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerUnavailable(str(error) or type(error).__name__) from error
        except httpx.HTTPError as error:
            if not over():
                reason = str(error) or type(error).__name__
                raise ReplyError("engine", f"the connection to Ollama broke: {reason}") from error

    async def wait_for_server(self, error: ServerUnavailable) -> None:
        """Wait a moment for an unavailable server. Raises Temporary after `patience` seconds without it."""
        now = asyncio.get_running_loop().time()
        self._unavailable_since = now if self._unavailable_since is None else self._unavailable_since
        if now - self._unavailable_since > self._timeouts.patience:
            raise not_reachable(self._url, error)
        await asyncio.sleep(min(1.0, self._timeouts.patience / 4) * random.uniform(0.5, 1.0))

    async def wait_while_busy(self, error: ErrorReply) -> None:
        """Wait a moment, since the server's queue is full.

        Raises Temporary when it is still full after `load` seconds.
        """
        now = asyncio.get_running_loop().time()
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since > self._timeouts.load:
            raise Temporary(
                f"Ollama has been busy for {self._timeouts.load:g} seconds: {error.message}",
                hint="run the same command again when others need it less, or raise OLLAMA_MAX_QUEUE",
            )
        await asyncio.sleep(random.uniform(0.2, 1.0))


class ReplyBuffer:
    """Collects a reply. Raises ReplyError when it is longer than MAX_REPLY."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > MAX_REPLY:
            raise ReplyError("engine", f"Ollama's reply is longer than {MAX_REPLY:,} bytes")

    def value(self, path: str) -> Any:
        """The JSON value of the reply. Raises ReplyError when it is none."""
        try:
            return decode(bytes(self._data), what=f"Ollama's reply to {path}", limit=MAX_REPLY)
        except BadData as error:
            raise ReplyError("engine", error.message) from error


class LineSplitter:
    """Splits a stream into lines and hands them to `take`. Raises ReplyError for a line longer than MAX_LINE."""

    def __init__(self, take: Callable[[bytes], bool]) -> None:
        self._take = take
        self._rest = bytearray()
        self.done = False

    def add(self, chunk: bytes) -> None:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._rest += line
            whole, self._rest = bytes(self._rest), bytearray()
            if whole.strip() and self._take(whole):
                self.done = True
                return
        self._rest += rest
        if len(self._rest) > MAX_LINE:
            raise ReplyError("engine", f"a line of Ollama's reply is longer than {MAX_LINE:,} bytes")

    def end(self) -> None:
        """The stream has ended. Raises TruncatedReply when its last line was missing."""
        if not self.done and self._rest.strip():
            self.done = self._take(bytes(self._rest))
        if not self.done:
            raise TruncatedReply("engine", "Ollama's reply ended before it was complete")


async def _beginning(reply: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in reply.aiter_raw():
        data += chunk
        if len(data) > 65536:
            break
    return bytes(data)

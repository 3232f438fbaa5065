"""The asynchronous connection to the server: requests with time-outs, and waiting for a server that is unavailable."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from hybrid.backends.servers.addresses import certificates, trusts_proxies
from hybrid.backends.servers.replies import (
    MAX_LINE,
    MAX_REPLY,
    ErrorReply,
    ReplyError,
    ServerUnavailable,
    TruncatedReply,
)
from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary

CHECK_SECONDS = 10.0
LONGEST_PAUSE = 60.0
"""Most seconds before a busy server is asked again, whatever it says."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a model to load, for the first token, between two tokens, and for an unavailable server."""

    load: float = 600.0
    first: float = 600.0
    idle: float = 60.0
    patience: float = 30.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: where it is, and how errors speak of it."""

    url: str
    name: str  # what messages call it
    unreachable: Callable[[str, Exception], Temporary]  # the error for a server that does not answer at a URL
    error_in: Callable[[bytes], str]  # the message in the body of an error reply
    restart: str = "restart it, its log says why"
    when_busy: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)  # is cut out of all that the server says


class Connection:
    """Requests to one server. It must be used and closed in the event loop in which it was created."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        url = endpoint.url
        self.endpoint = endpoint
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
            headers={**endpoint.headers, "Accept-Encoding": "identity"},
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
        whole = ReplyBuffer(self.endpoint)
        await self._exchange("GET", path, None, whole.add, Timeouts(first=CHECK_SECONDS, idle=CHECK_SECONDS))
        return whole.value(path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON reply to a POST of `body`. Raises ServerUnavailable, ReplyError, ErrorReply."""
        whole = ReplyBuffer(self.endpoint)
        await self._exchange("POST", path, body, whole.add, self._timeouts)
        return whole.value(path)

    async def stream(self, path: str, body: Mapping[str, Any], take: Callable[[bytes], bool]) -> None:
        """POST `body` and hand each line of the reply to `take` until it returns true.

        Raises ServerUnavailable, ReplyError, ErrorReply.
        """
        secret = self.endpoint.secret
        lines = LineSplitter(self.endpoint.name, (lambda line: take(without(secret, line))) if secret else take)
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
                            raise self._error_reply(reply, await _beginning(reply))
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
                raise ReplyError(
                    "stalled", f"nothing came from {self.endpoint.name} for {waiting:g} seconds"
                ) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerUnavailable(str(error) or type(error).__name__) from error
        except httpx.HTTPError as error:
            if not over():
                reason = str(error) or type(error).__name__
                raise ReplyError("engine", f"the connection to {self.endpoint.name} broke: {reason}") from error

    async def wait_for_server(self, error: ServerUnavailable) -> None:
        """Wait a moment for an unavailable server. Raises Temporary after `patience` seconds without it."""
        now = asyncio.get_running_loop().time()
        self._unavailable_since = now if self._unavailable_since is None else self._unavailable_since
        if now - self._unavailable_since > self._timeouts.patience:
            raise self.endpoint.unreachable(self.endpoint.url, error)
        await asyncio.sleep(min(1.0, self._timeouts.patience / 4) * random.uniform(0.5, 1.0))

    async def wait_while_busy(self, error: ErrorReply) -> None:
        """Wait a moment, since the server's queue is full: as long as it asks for, within bounds.

        Raises Temporary when it is still full after `load` seconds.
        """
        now = asyncio.get_running_loop().time()
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since > self._timeouts.load:
            raise Temporary(
                f"{self.endpoint.name} has been busy for {self._timeouts.load:g} seconds: {error.message}",
                hint=f"run the same command again when others need it less{self.endpoint.when_busy}",
            )
        asked = min(error.retry_after, LONGEST_PAUSE, max(1.0, self._timeouts.load))
        await asyncio.sleep(asked + random.uniform(0.2, 1.0))

    def _error_reply(self, reply: httpx.Response, body: bytes) -> ErrorReply:
        body = without(self.endpoint.secret, body)
        return ErrorReply(reply.status_code, self.endpoint.error_in(body), body, retry_after(reply))


class ReplyBuffer:
    """Collects a reply of a server. Raises ReplyError when it is longer than MAX_REPLY."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._server, self._secret = endpoint.name, endpoint.secret
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > MAX_REPLY:
            raise ReplyError("engine", f"the reply of {self._server} is longer than {MAX_REPLY:,} bytes")

    def value(self, path: str) -> Any:
        """The JSON value of the reply. Raises ReplyError when it is none."""
        try:
            return decode(
                without(self._secret, bytes(self._data)), what=f"the reply of {self._server} to {path}", limit=MAX_REPLY
            )
        except BadData as error:
            raise ReplyError("engine", error.message) from error


class LineSplitter:
    """Splits a stream of `server` into lines and hands them to `take`.

    Raises ReplyError for a line longer than MAX_LINE.
    """

    def __init__(self, server: str, take: Callable[[bytes], bool]) -> None:
        self._server = server
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
            raise ReplyError("engine", f"a line of the reply of {self._server} is longer than {MAX_LINE:,} bytes")

    def end(self) -> None:
        """The stream has ended. Raises TruncatedReply when its last line was missing."""
        if not self.done and self._rest.strip():
            self.done = self._take(bytes(self._rest))
        if not self.done:
            raise TruncatedReply("engine", f"the reply of {self._server} ended before it was complete")


async def _beginning(reply: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in reply.aiter_raw():
        data += chunk
        if len(data) > 65536:
            break
    return bytes(data)


def without(secret: str, said: bytes) -> bytes:
    """What a server said, without the secret that it was sent: errors show it, logs and records keep it."""
    return said.replace(secret.encode(), b"[key]") if secret else said


def retry_after(reply: httpx.Response) -> float:
    """The seconds of the header Retry-After, a number or a date; 0 when there is none, or none that can be read."""
    said = reply.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(said)) if said[:1].isdigit() else _seconds_until(said)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _seconds_until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())

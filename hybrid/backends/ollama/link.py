"""The way from one stream of requests to the server: connections, time limits, a server that is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from hybrid.backends.ollama.client import LARGEST_REPLY, Refused, certificates, error_in, not_reachable, trusts_proxies
from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary

MOST_LINE = 4 << 20
"""Bytes of one line of a reply; the last one may hold a number a token of the prompt."""

CHECK_SECONDS = 10.0


class Trouble(Exception):
    """A reply that did not come to its end: it is asked for again. `kind` is a failure's."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class CutShort(Trouble):
    """A reply that ended in good order, but without its last line."""


class Gone(Exception):
    """Nobody listens at the server's address."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that are waited: for a model to load, for the first token, between tokens, for a server to come back."""

    load: float = 600.0
    first: float = 600.0
    idle: float = 60.0
    patience: float = 30.0


class Link:
    """Made inside an event loop, used in it, closed in it."""

    def __init__(self, url: str, waits: Waits) -> None:
        self._url = url
        self._waits = waits
        self._limits: set[asyncio.Timeout] = set()
        self._gone_since: float | None = None
        self._busy_since: float | None = None
        self.last_heard = 0.0
        """When a token came last, in the loop's time."""
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
        """The loop stood still for `pause` seconds: whoever is waited for has had no chance to be heard."""
        for limit in self._limits:
            when = limit.when()
            if when is not None and not limit.expired():
                limit.reschedule(when + pause)
        self._gone_since = None if self._gone_since is None else self._gone_since + pause
        self._busy_since = None if self._busy_since is None else self._busy_since + pause

    async def get(self, path: str) -> Any:
        """The JSON value at `path`. Raises Gone, Trouble, Refused."""
        whole = Whole()
        await self._exchange("GET", path, None, whole.add, Waits(first=CHECK_SECONDS, idle=CHECK_SECONDS))
        return whole.value(path)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON value that comes for `body`, in one piece. Raises Gone, Trouble, Refused."""
        whole = Whole()
        await self._exchange("POST", path, body, whole.add, self._waits)
        return whole.value(path)

    async def stream(self, path: str, body: Mapping[str, Any], take: Callable[[bytes], bool]) -> None:
        """Hand each line of the reply to `take` until it says that it was the last. Raises Gone, Trouble, Refused."""
        lines = Lines(take)
        await self._exchange("POST", path, body, lines.add, self._waits, over=lambda: lines.done)
        lines.end()

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        add: Callable[[bytes], None],
        waits: Waits,
        *,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        waiting = waits.first
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(waits.first) as limit:
                self._limits.add(limit)
                try:
                    async with self._client.stream(method, path, json=body) as reply:
                        self._gone_since = None
                        if reply.status_code != 200:
                            raise Refused(reply.status_code, error_in(await _beginning(reply)))
                        async for chunk in reply.aiter_raw():
                            if not over():  # what follows the last line is read to keep the connection, not for long
                                add(chunk)
                                self.last_heard = clock()
                            waiting = 1.0 if over() else waits.idle
                            limit.reschedule(clock() + waiting)
                finally:
                    self._limits.discard(limit)
            self._busy_since = None
        except TimeoutError as error:
            if not over():
                raise Trouble("stalled", f"nothing came from Ollama for {waiting:g} seconds") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Gone(str(error) or type(error).__name__) from error
        except httpx.HTTPError as error:
            if not over():
                reason = str(error) or type(error).__name__
                raise Trouble("engine", f"the connection to Ollama broke: {reason}") from error

    async def wait_for_server(self, error: Gone) -> None:
        """Wait a moment for a server that is away. Raises Temporary when it stays away."""
        now = asyncio.get_running_loop().time()
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since > self._waits.patience:
            raise not_reachable(self._url, error)
        await asyncio.sleep(min(1.0, self._waits.patience / 4) * random.uniform(0.5, 1.0))

    async def wait_for_room(self, error: Refused) -> None:
        """Wait a moment, since the server's queue is full. Raises Temporary when it stays full."""
        now = asyncio.get_running_loop().time()
        self._busy_since = now if self._busy_since is None else self._busy_since
        if now - self._busy_since > self._waits.load:
            raise Temporary(
                f"Ollama has been busy for {self._waits.load:g} seconds: {error.message}",
                hint="run the same command again when others need it less, or raise OLLAMA_MAX_QUEUE",
            )
        await asyncio.sleep(random.uniform(0.2, 1.0))


class Whole:
    """Gathers a reply of bounded size."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > LARGEST_REPLY:
            raise Trouble("engine", f"Ollama's reply is longer than {LARGEST_REPLY:,} bytes")

    def value(self, path: str) -> Any:
        """The JSON value that came."""
        try:
            return decode(bytes(self._data), what=f"Ollama's reply to {path}", limit=LARGEST_REPLY)
        except BadData as error:
            raise Trouble("engine", error.message) from error


class Lines:
    """Cuts what comes into lines of bounded length."""

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
        if len(self._rest) > MOST_LINE:
            raise Trouble("engine", f"a line of Ollama's reply is longer than {MOST_LINE:,} bytes")

    def end(self) -> None:
        """Nothing more comes. Raises Trouble when that was not the end."""
        if not self.done and self._rest.strip():
            self.done = self._take(bytes(self._rest))
        if not self.done:
            raise CutShort("engine", "Ollama's reply ended before it was complete")


async def _beginning(reply: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in reply.aiter_raw():
        data += chunk
        if len(data) > 65536:
            break
    return bytes(data)

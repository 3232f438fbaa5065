"""What stands between Ollama's Python package and the network: limits of bytes and time, our errors, nobody else.

By itself the package waits for ever and reads whatever comes into memory, follows redirects to other machines, sends
OLLAMA_API_KEY to every server, and stumbles over an error or a line that is not as it expects. So this is its
transport: what gets through to the package is a JSON object, or lines that are some, and none of them an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from hybrid.backends.ollama.client import (
    LARGEST_REPLY,
    Refused,
    certificates,
    error_in,
    not_reachable,
    trusts_proxies,
)
from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary
from hybrid.machine.terminal import clean_line

LONGEST_LINE = 1 << 20
"""Bytes of a line of a stream; one that tells of progress has some hundred."""

STREAMS = ("/api/pull", "/api/push", "/api/create")
"""Where the reply is lines that come while the server works."""

SILENCE = 1800.0
"""Seconds between two lines of a stream: the server says nothing while it reads what it has fetched to verify it."""

OURS = "is that server Ollama?"


class Bounds(httpx.BaseTransport):
    """Sends requests to one server. `value` is the object in the last reply that was no stream."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.value: dict[str, Any] = {}
        self._client = httpx.Client(timeout=seconds, trust_env=trusts_proxies(url), verify=certificates(url))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """For the package: a reply of 200, whole or as a stream. Raises Temporary, BadData, Refused."""
        request.headers.pop("Authorization", None)
        path = request.url.path
        if path.endswith(STREAMS):
            return httpx.Response(200, stream=_Lines(self._lines(request, path)))
        data = self._whole(request, path, request.extensions["timeout"]["read"])
        self.value = _object(data, path) if data else {}  # some have nothing to say
        return httpx.Response(200, content=data)

    def ask(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
        """The JSON object at `path`; a POST when there is a body. Raises Temporary, BadData, Refused."""
        method = "GET" if body is None else "POST"
        with _words(self.url, path, seconds):
            request = self._client.build_request(method, self.url + path, json=body, timeout=seconds)
        return _object(self._whole(request, path, seconds), path)

    def close(self) -> None:
        self._client.close()

    def _whole(self, request: httpx.Request, path: str, seconds: float) -> bytes:
        data, until = bytearray(), time.monotonic() + seconds
        with _words(self.url, path, seconds), self._opened(request) as reply:
            for chunk in reply.iter_bytes():
                data += chunk
                if time.monotonic() > until:  # httpx's own limit is for each piece
                    raise httpx.ReadTimeout("it came too slowly")
                if len(data) > LARGEST_REPLY:
                    raise BadData(f"Ollama's reply is longer than {LARGEST_REPLY:,} bytes", hint=OURS)
        if reply.status_code != 200:
            raise Refused(reply.status_code, _reason(reply, bytes(data)))
        return bytes(data)

    def _lines(self, request: httpx.Request, path: str) -> Iterator[bytes]:
        """Each line as an object in ASCII: httpx would end a line at what other texts end one with, too."""
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": SILENCE}
        with _words(self.url, path, SILENCE), self._opened(request) as reply:
            if reply.status_code != 200:
                raise Refused(reply.status_code, _reason(reply, b"".join(_cut(reply))))
            for line in _cut(reply):
                value = _object(line, path)
                if "error" in value:
                    raise Refused(0, error_in(line))
                yield json.dumps(value).encode() + b"\n"

    @contextmanager
    def _opened(self, request: httpx.Request) -> Iterator[httpx.Response]:
        request.headers["Accept-Encoding"] = "identity"
        reply = self._client.send(request, stream=True)
        try:
            yield reply
        finally:
            reply.close()


class _Lines(httpx.SyncByteStream):
    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def close(self) -> None:
        self._lines.close()  # type: ignore[attr-defined]  # a generator: what it holds open is closed


def _cut(reply: httpx.Response) -> Iterator[bytes]:
    """The lines of a reply that are not empty, of bounded length."""
    rest = b""
    for chunk in reply.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(bytes.strip, lines)
        if len(rest) > LONGEST_LINE:
            raise BadData(f"a line of Ollama's reply is longer than {LONGEST_LINE:,} bytes", hint=OURS)
    if rest.strip():
        yield rest


@contextmanager
def _words(url: str, path: str, seconds: float) -> Iterator[None]:
    """What httpx raises, in words."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, UnicodeError) as error:
        raise not_reachable(url, error) from error
    except httpx.TimeoutException as error:
        raise Temporary(
            f"Ollama at {url} did not answer {path} within {seconds:g} seconds",
            hint="is it loading a large model, or stuck? look at its log; restart it if need be",
        ) from error
    except httpx.RequestError as error:
        raise Temporary(
            f"the connection to Ollama at {url} broke: {clean_line(str(error))[:200]}",
            hint="has it ended? its log says why; then run the same command again",
        ) from error


def _reason(reply: httpx.Response, data: bytes) -> str:
    if 300 <= reply.status_code < 400:
        return f"it sends to another place, which is not followed: {reply.headers.get('location', '')[:200]}"
    return error_in(data)


def _object(data: bytes, path: str) -> dict[str, Any]:
    value = decode(data, what=f"Ollama's reply to {path}", limit=LARGEST_REPLY)
    if not isinstance(value, dict):
        raise BadData(f"Ollama's reply to {path} is not a JSON object", hint=OURS)
    return value

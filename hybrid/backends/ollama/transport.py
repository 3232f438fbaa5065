"""The HTTP transport under Ollama's Python package: limits on bytes and time, and this project's errors.

By default the package has no time-out, reads replies of any size into memory, follows redirects to other hosts, sends
OLLAMA_API_KEY to every server, and fails on errors or lines in an unexpected form. With this transport it only
receives valid JSON objects that are not errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from hybrid.backends.ollama.api import error_in, not_reachable
from hybrid.backends.servers.addresses import certificates, trusts_proxies
from hybrid.backends.servers.replies import MAX_REPLY, ErrorReply
from hybrid.canonical import decode
from hybrid.errors import BadData, Temporary
from hybrid.machine.terminal import clean_line

MAX_LINE = 1 << 20
"""Bytes of one line of a stream; a progress line has some hundred."""

STREAMS = ("/api/pull", "/api/push", "/api/create")
"""Endpoints that reply with a stream of JSON lines."""

STREAM_IDLE_SECONDS = 1800.0
"""Longest pause, in seconds, between two lines of a stream: the server is silent while it verifies a download."""

IS_IT_OLLAMA = "is that server Ollama?"


class BoundedTransport(httpx.BaseTransport):
    """Sends requests to one server. `value` is the JSON object of the last reply that was not a stream."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.value: dict[str, Any] = {}
        self._client = httpx.Client(timeout=seconds, trust_env=trusts_proxies(url), verify=certificates(url))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """For the package: a reply with status 200, whole or streamed. Raises Temporary, BadData, ErrorReply."""
        request.headers.pop("Authorization", None)
        path = request.url.path
        if path.endswith(STREAMS):
            return httpx.Response(200, stream=_Lines(self._lines(request, path)))
        data = self._whole(request, path, request.extensions["timeout"]["read"])
        self.value = _object(data, path) if data else {}  # some replies are empty
        return httpx.Response(200, content=data)

    def ask(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
        """The JSON object at `path`; a POST when there is a body. Raises Temporary, BadData, ErrorReply."""
        method = "GET" if body is None else "POST"
        with _explained_errors(self.url, path, seconds):
            request = self._client.build_request(method, self.url + path, json=body, timeout=seconds)
        return _object(self._whole(request, path, seconds), path)

    def close(self) -> None:
        self._client.close()

    def _whole(self, request: httpx.Request, path: str, seconds: float) -> bytes:
        data, until = bytearray(), time.monotonic() + seconds
        with _explained_errors(self.url, path, seconds), self._opened(request) as reply:
            for chunk in reply.iter_bytes():
                data += chunk
                if time.monotonic() > until:  # httpx's own time-out is per chunk
                    raise httpx.ReadTimeout("it came too slowly")
                if len(data) > MAX_REPLY:
                    raise BadData(f"Ollama's reply is longer than {MAX_REPLY:,} bytes", hint=IS_IT_OLLAMA)
        if reply.status_code != 200:
            raise ErrorReply(reply.status_code, _reason(reply, bytes(data)))
        return bytes(data)

    def _lines(self, request: httpx.Request, path: str) -> Iterator[bytes]:
        """The objects of a stream, one ASCII line each: httpx also splits lines at Unicode line separators."""
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": STREAM_IDLE_SECONDS}
        with _explained_errors(self.url, path, STREAM_IDLE_SECONDS), self._opened(request) as reply:
            if reply.status_code != 200:
                raise ErrorReply(reply.status_code, _reason(reply, b"".join(_lines_of(reply))))
            for line in _lines_of(reply):
                value = _object(line, path)
                if "error" in value:
                    raise ErrorReply(0, error_in(line))
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
        self._lines.close()  # type: ignore[attr-defined]  # a generator: its context managers are closed


def _lines_of(reply: httpx.Response) -> Iterator[bytes]:
    """The non-empty lines of a reply. Raises BadData for one that is longer than MAX_LINE."""
    rest = b""
    for chunk in reply.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(bytes.strip, lines)
        if len(rest) > MAX_LINE:
            raise BadData(f"a line of Ollama's reply is longer than {MAX_LINE:,} bytes", hint=IS_IT_OLLAMA)
    if rest.strip():
        yield rest


@contextmanager
def _explained_errors(url: str, path: str, seconds: float) -> Iterator[None]:
    """Translate httpx's errors to Temporary."""
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
    value = decode(data, what=f"Ollama's reply to {path}", limit=MAX_REPLY)
    if not isinstance(value, dict):
        raise BadData(f"Ollama's reply to {path} is not a JSON object", hint=IS_IT_OLLAMA)
    return value

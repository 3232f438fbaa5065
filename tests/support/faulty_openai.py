"""An HTTP server that speaks OpenAI's interface and has the faults that a real one will not show on demand.

    with FaultyOpenai([said("yes"), Answer(429, b"{}", headers={"Retry-After": "1"})]) as server: ...

Each POST takes the next `Answer` of the script; when that is at its end, the last one again. `server.heard` keeps path,
headers and body of every request.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "faulty"


@dataclass(frozen=True)
class Answer:
    """Status, body and headers of a reply. `stall`: seconds of silence in the middle; `cut`: it ends there."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    stall: float = 0.0
    cut: bool = False


def said(text: str, *, finish: str | None = "stop", thought: str = "", done: bool = True, **usage: int) -> Answer:
    """A streamed answer of a chat, in two pieces."""
    half = len(text) // 2
    deltas: list[dict[str, Any]] = [{"role": "assistant", "reasoning_content": thought}] if thought else []
    deltas += [{"content": text[:half]}, {"content": text[half:]}]
    events = [{"model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({"model": MODEL, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    counts = {"prompt_tokens": 5, "completion_tokens": 3, **usage}
    return stream([*events, {"model": MODEL, "choices": [], "usage": counts}], done=done)


def stream(events: Sequence[Mapping[str, Any]], *, done: bool = True) -> Answer:
    """These events as a stream."""
    lines = [b": a comment\n\n", *(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)]
    return Answer(200, b"".join([*lines, b"data: [DONE]\n\n" if done else b""]), {"Content-Type": "text/event-stream"})


def refused(status: int, message: str, code: str = "", **headers: str) -> Answer:
    """An error as OpenAI's servers give it."""
    error = {"message": message, "type": "error", "code": code or None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"error": error}).encode(), named)


class FaultyOpenai:
    """The server, on a free port of this machine. `models` are its list, which may be changed while it runs."""

    def __init__(self, script: Iterable[Answer] = (said("yes"),), models: Sequence[Mapping[str, Any]] = ()) -> None:
        self.script = list(script)
        self.models: list[Mapping[str, Any]] = list(models) or [{"id": MODEL, "owned_by": "somebody"}]
        self.listing: Answer | None = None  # instead of the list
        self.heard: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._taken = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of the requests for answers."""
        return [body for path, _, body in self.heard if path.endswith("completions")]

    def next(self) -> Answer:
        with self._lock:
            self._taken += 1
            return self.script[min(self._taken, len(self.script)) - 1]

    def list(self) -> Answer:
        return self.listing or Answer(200, json.dumps({"object": "list", "data": self.models}).encode())

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


def _handler_of(faulty: FaultyOpenai) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection for each reply

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            faulty.heard.append((self.path, dict(self.headers), {}))
            self._send(faulty.list() if self.path == "/v1/models" else Answer(404, b"{}"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            faulty.heard.append((self.path, dict(self.headers), body))
            self._send(faulty.next())

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            half = len(answer.body) // 2
            self.wfile.write(answer.body[:half])
            self.wfile.flush()
            faulty.stopping.wait(answer.stall)
            if not answer.cut:
                self.wfile.write(answer.body[half:])

    return Handler

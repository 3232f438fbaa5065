"""An HTTP server that speaks Ollama's interface and has the faults that a real one will not show on demand.

    with FaultyOllama([Say("yes"), Stall(), Say("no", done=False)]) as server:
        backend = open_backend("ollama", "faulty", {"host": server.url, "idle_timeout": "1"})

Each request for an answer (/api/chat, /api/generate, /api/embed) takes the next behaviour of the script; when that is
at its end, the last one again. A behaviour is called with the `Reply` that it writes; `by_body` chooses one by what is
asked. Loading (no messages, no prompt, no input) takes none, nor does showing the prompt of a chat. `server.requests`
keeps (path, body) of what took one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "faulty"
DIGEST = "ab" * 32
OTHER_DIGEST = "cd" * 32


@dataclass(frozen=True)
class Say:
    """A reply in pieces, as Ollama streams it. `done` False: it ends without its last line."""

    text: str = "yes"
    finish: str = "stop"
    done: bool = True
    pieces: int = 3
    delay: float = 0.0  # seconds before each piece
    tokens: int = 0  # of the answer; as many as pieces when 0
    prompt_tokens: int = 5
    more: dict[str, Any] = field(default_factory=dict)  # into the last line

    def __call__(self, reply: Reply) -> None:
        reply.start()
        for piece in cut(self.text, self.pieces):
            time.sleep(self.delay)
            reply.piece(piece)
        if self.done:
            counts = {"prompt_eval_count": self.prompt_tokens, "eval_count": self.tokens or self.pieces}
            reply.piece("", done=True, done_reason=self.finish, **counts, **self.more)


@dataclass(frozen=True)
class Stall:
    """Some pieces, then nothing for `seconds`, with the connection open."""

    after: str = ""
    seconds: float = 30.0

    def __call__(self, reply: Reply) -> None:
        if self.after:
            reply.start()
            reply.piece(self.after)
        reply.wait(self.seconds)


@dataclass(frozen=True)
class Raw:
    """These bytes as the stream, whatever they are; `closed`: the connection is cut instead of ended."""

    data: bytes
    closed: bool = False

    def __call__(self, reply: Reply) -> None:
        reply.start(length=None if not self.closed else len(self.data) + 1000)
        reply.send(self.data)


@dataclass(frozen=True)
class Refuse:
    """An error as Ollama gives it."""

    status: int
    error: str

    def __call__(self, reply: Reply) -> None:
        reply.json(self.status, {"error": self.error})


@dataclass(frozen=True)
class ErrorLine:
    """An error in the middle of the stream."""

    error: str
    after: str = "so far"

    def __call__(self, reply: Reply) -> None:
        reply.start()
        reply.piece(self.after)
        reply.line({"error": self.error})


@dataclass(frozen=True)
class Endless:
    """The same piece over and over: until num_predict (`obeys`), or until the client hangs up."""

    piece: str = " "
    obeys: bool = True

    def __call__(self, reply: Reply) -> None:
        reply.start()
        most = int(reply.body.get("options", {}).get("num_predict", 1 << 30)) if self.obeys else 1 << 30
        for _ in range(most):
            reply.piece(self.piece)
        reply.piece("", done=True, done_reason="length", prompt_eval_count=5, eval_count=most)


@dataclass(frozen=True)
class Vectors:
    """A reply of /api/embed: one vector of `size` numbers a text; `change` is done to all of them together."""

    size: int = 3
    change: Callable[[list[Any]], Any] = lambda vectors: vectors

    def __call__(self, reply: Reply) -> None:
        texts = reply.body["input"]
        vectors = [[float(len(text) + 1), *[1.0] * (self.size - 1)] for text in texts]
        reply.json(200, {"model": MODEL, "embeddings": self.change(vectors)})


BUSY = Refuse(503, "server busy, please try again.  maximum pending requests exceeded")
CRASH = Refuse(500, "llama runner process has terminated: exit status 2")
FENCED = '```json\n{"verdict": "right"}\n```'
STRAY = 'Sure, here you are: {"verdict": "right"} I hope it helps.'

Behaviour = Callable[["Reply"], None]
Render = Callable[[list[dict[str, str]]], "str | Refuse"]
CHATML = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def chatml(messages: list[dict[str, str]]) -> str:
    """A chat as that template writes it."""
    turns = [f"<|im_start|>{one['role']}\n{one['content']}<|im_end|>\n" for one in messages]
    return "".join([*turns, "<|im_start|>assistant\n"])


def by_body(choose: Callable[[dict[str, Any]], Behaviour]) -> Behaviour:
    """A behaviour that depends on what is asked."""
    return lambda reply: choose(reply.body)(reply)


def asked(body: dict[str, Any]) -> str:
    """The last message, or the prompt, of a request."""
    messages = body.get("messages") or []
    return str(messages[-1]["content"] if messages else body.get("prompt", ""))


def cut(text: str, pieces: int) -> list[str]:
    """`text` in at most so many pieces."""
    step = max(1, -(-len(text) // max(1, pieces)))
    return [text[start : start + step] for start in range(0, len(text), step)]


class FaultyOllama:
    """The server, on a free port of this machine. Its attributes may be changed while it runs."""

    def __init__(self, script: Iterable[Behaviour] = (Say(),), **about: Any) -> None:
        self.script = list(script)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.version = about.get("version", "0.24.0")
        self.digest = about.get("digest", DIGEST)
        self.changes_after = about.get("changes_after", 0)  # the digest is another one after so many answers
        self.size = about.get("size", 1)  # bytes of the model
        self.context = about.get("context", 4096)
        self.capabilities = list(about.get("capabilities", ["completion", "embedding"]))
        self.template = about.get("template", CHATML)
        self.render: Render | None = about.get("render", chatml)  # None: it shows no prompt, and answers instead
        self.parameters = about.get("parameters", "")
        self.load_seconds = about.get("load_seconds", 0.0)
        self.load_error: Refuse | None = about.get("load_error")
        self.shown: dict[str, Any] = about.get("shown", {})  # more in the reply of /api/show
        self.instead: dict[str, Behaviour] = about.get("instead", {})  # path -> what comes there, whatever is asked
        self.heard: list[tuple[str, dict[str, str]]] = []
        """Path and headers of every request."""
        self.shows: list[dict[str, Any]] = []
        """Bodies of requests for a prompt."""
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.at_once = 0
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after a `stop`, on the same port."""
        self.stopping.clear()
        server = Http(("127.0.0.1", self._port), Handler)
        server.faulty = self
        self._server, self._port = server, server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut all connections."""
        self.stopping.set()
        if self._server:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.requests]

    def next(self, path: str, body: dict[str, Any]) -> Behaviour:
        """What the next request for an answer meets."""
        with self.lock:
            self.requests.append((path, body))
            number = len(self.requests)
            if self.changes_after and number >= self.changes_after:
                self.digest = OTHER_DIGEST
            return self.script[min(number, len(self.script)) - 1]

    def count(self, change: int) -> None:
        """Requests that are being answered."""
        with self.lock:
            self.at_once += change
            self.most_at_once = max(self.most_at_once, self.at_once)


class Http(ThreadingHTTPServer):
    """Knows its connections, to cut them."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    faulty: FaultyOllama

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.connections):
            self.shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Http

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _answer(self, body: dict[str, Any]) -> None:
        faulty = self.server.faulty
        reply = Reply(self, faulty, body)
        faulty.heard.append((self.path, dict(self.headers)))
        if self.path in faulty.instead:
            faulty.instead[self.path](reply)
            reply.end()
        elif self.path in SIMPLE:
            reply.json(200, SIMPLE[self.path](faulty))
        elif body.get("_debug_render_only") and self.path == "/api/chat":
            faulty.shows.append(body)
            _show(reply, faulty.render(body["messages"]) if faulty.render else None)
        elif not (asked(body) or body.get("input")):
            time.sleep(faulty.load_seconds)
            (faulty.load_error or Load())(reply)
        else:
            faulty.count(1)
            try:
                faulty.next(self.path, body)(reply)
            finally:
                faulty.count(-1)
                reply.end()


class Load:
    """The reply to a request that only loads."""

    def __call__(self, reply: Reply) -> None:
        reply.json(200, {"model": MODEL, "done": True, "done_reason": "load", "embeddings": []})


class Reply:
    """What a behaviour writes to."""

    def __init__(self, handler: Handler, faulty: FaultyOllama, body: dict[str, Any]) -> None:
        self.handler, self.faulty, self.body = handler, faulty, body
        self.chat = handler.path == "/api/chat"
        self._chunked = False

    def start(self, length: int | None = None) -> None:
        """The headers; chunks without an end unless a length is said."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "application/x-ndjson")
        self._chunked = length is None
        if self._chunked:
            self.handler.send_header("Transfer-Encoding", "chunked")
        else:
            self.handler.send_header("Content-Length", str(length))
            self.handler.close_connection = True
        self.handler.end_headers()

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
        self.handler.wfile.flush()

    def line(self, value: dict[str, Any]) -> None:
        self.send(json.dumps(value).encode() + b"\n")

    def piece(self, text: str, *, done: bool = False, **more: Any) -> None:
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
        self.line({"model": MODEL, "created_at": "2026-01-01T00:00:00Z", **said, "done": done, **more})

    def wait(self, seconds: float) -> None:
        """Say nothing for so long, or until the server stops."""
        self.faulty.stopping.wait(seconds)
        self.handler.close_connection = True
        self._chunked = False

    def json(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", "application/json")
        self.handler.send_header("Content-Length", str(len(data)))
        self.handler.end_headers()
        self.handler.wfile.write(data)
        self._chunked = False

    def end(self) -> None:
        """The end of a chunked stream."""
        if self._chunked:
            self.handler.wfile.write(b"0\r\n\r\n")
            self._chunked = False


def _show(reply: Reply, prompt: str | Refuse | None) -> None:
    """The prompt instead of an answer; a short answer from a server that does not know what is asked."""
    if isinstance(prompt, Refuse):
        prompt(reply)
    elif prompt is None:
        reply.json(200, {"model": MODEL, "message": {"content": "a"}, "done": True, "done_reason": "length"})
    else:
        reply.json(200, {"model": MODEL, "done": False, "_debug_info": {"rendered_template": prompt}})


def _listed(faulty: FaultyOllama) -> dict[str, Any]:
    return {
        "models": [
            {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "digest": faulty.digest, "size": faulty.size}
        ]
    }


def _shown(faulty: FaultyOllama) -> dict[str, Any]:
    return {
        "template": faulty.template,
        "parameters": faulty.parameters,
        "capabilities": faulty.capabilities,
        "details": {"family": "test"},
        "model_info": {"general.architecture": "test", "test.context_length": faulty.context},
        **faulty.shown,
    }


SIMPLE: dict[str, Callable[[FaultyOllama], dict[str, Any]]] = {
    "/api/version": lambda faulty: {"version": faulty.version},
    "/api/tags": _listed,
    "/api/show": _shown,
    "/api/ps": lambda _: {"models": []},
}

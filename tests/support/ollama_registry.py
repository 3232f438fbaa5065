"""A local model registry for `ollama pull --insecure HOST:PORT/NAMESPACE/MODEL`.

It serves the content of an `OllamaStore`. As with the real registry, a layer is a redirect to another host, which
serves it in ranges.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from hybrid.models.names import OllamaName
from hybrid.models.ollama_store import OllamaStore

PIECE = 1 << 16


class OllamaRegistry:
    """The server. Its attributes may be changed while it runs."""

    def __init__(self, store: OllamaStore) -> None:
        self.store = store
        self.ranges: list[str] = []
        """What was asked for of layers, such as `bytes=0-99`."""
        self.status = 0
        """An error for everything, with `said` as its body."""
        self.said = b"{}"
        self.holds_after = 1 << 62
        """Bytes of a layer after which nothing more comes, until `free` is set."""
        self.held, self.free = threading.Event(), threading.Event()
        self.damaged = False
        """Whether layers come with other bytes."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.registry = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        registry: OllamaRegistry = self.server.registry
        manifest = re.fullmatch(r"/v2/([^/]+)/([^/]+)/manifests/([^/]+)", self.path)
        blob = re.fullmatch(r"(/v2/[^/]+/[^/]+/blobs|/data)/sha256:([0-9a-f]{64})", self.path)
        try:
            if registry.status:
                self._answer(registry.status, registry.said)
            elif manifest:
                name = OllamaName.parse("{}/{}:{}".format(*manifest.groups()))
                self._answer(200, registry.store.manifest_path(name).read_bytes())
            elif blob and blob[1] == "/data":
                self._range(registry, registry.store.blob(blob[2]).read_bytes())
            elif blob and self.command == "HEAD":
                self._answer(200, registry.store.blob(blob[2]).read_bytes())
            elif blob:
                elsewhere = f"http://localhost:{self.server.server_port}/data/sha256:{blob[2]}"
                self._answer(307, b"", Location=elsewhere)
            else:
                self._answer(404, json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN"}]}).encode())
        except FileNotFoundError:
            self._answer(404, b'{"errors": []}')

    def _range(self, registry: OllamaRegistry, data: bytes) -> None:
        said = self.headers["Range"]
        registry.ranges.append(said)
        first, last = (int(number) for number in re.findall(r"\d+", said))
        if registry.damaged:
            data = bytes(len(data))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        for start in range(first, last + 1, PIECE):
            if start >= registry.holds_after:
                self.wfile.flush()
                registry.held.set()
                registry.free.wait()
            self.wfile.write(data[start : min(start + PIECE, last + 1)])

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

"""A stand-in for the API of Kaggle, which its own command line reaches as a proxy: its address there is fixed."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

SAVE = "/api/v1/kernels.KernelsApiService/SaveKernel"
INTROSPECT = "/api/v1/security.OAuthService/IntrospectToken"


class KaggleSite:
    """The server. `error` is what it says of every notebook, `status` what it answers instead of 200."""

    def __init__(self, home: Path) -> None:
        self.home, self.error, self.status = home, "", 200
        self.saved: list[dict[str, Any]] = []
        self.credentials: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What leads Kaggle's command line here, without the keys of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
        here = f"http://127.0.0.1:{self._server.server_port}"
        proxies = {"http_proxy": here, "https_proxy": here, "no_proxy": "", "NO_PROXY": ""}
        return {**kept, **proxies, "HOME": str(self.home), "KAGGLE_API_ENVIRONMENT": "LOCALHOST"}

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.site = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_POST(self) -> None:
        site: KaggleSite = self.server.site
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        site.credentials.append(self.headers.get("Authorization", ""))
        if self.path.endswith(INTROSPECT):
            answer: dict[str, Any] = {"active": True, "username": "by-token"}
        else:
            assert self.path.endswith(SAVE)
            site.saved.append(asked)
            url = f"https://www.kaggle.com/code/{asked['slug']}"
            answer = {"error": site.error} if site.error else {"versionNumber": len(site.saved), "url": url}
        if site.status != 200:
            answer = {"code": site.status, "message": "the site is not well"}
        data = json.dumps(answer).encode()
        self.send_response(site.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

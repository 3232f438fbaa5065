"""Servers that speak S3 on loopback: `rclone serve s3`, a real one, and a small one that can fail, also as Google's."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.support.ports import free_port
from tests.support.sync_programs import wait_until

KEY_ID, SECRET = "keyid-0123456789abcdef", "secret-0123456789abcdefghijklmnop"
BUCKET = "bucket"
OLDEST = (1, 65)
"""The first rclone with `serve s3`."""


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which a machine knows the store."""
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def _has_s3() -> bool:
    """Whether an rclone with `serve s3` is here."""
    found = shutil.which("rclone")
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout if found else ""
    version = re.search(r"rclone v(\d+)\.(\d+)", said)
    return bool(version) and (int(version[1]), int(version[2])) >= OLDEST


@contextmanager
def served_by_rclone(data: Path) -> Iterator[str]:
    """The endpoint of a real server; its buckets are the folders in `data`."""
    if not _has_s3():
        pytest.skip("needs rclone 1.65 or newer on PATH, which has `rclone serve s3`")
    (data / BUCKET).mkdir(parents=True)
    port = free_port()
    command = ["rclone", "serve", "s3", f"--addr=127.0.0.1:{port}", f"--auth-key={KEY_ID},{SECRET}"]
    config = data.parent / "rclone.conf"
    config.touch()
    with (data.parent / "rclone.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--config={config}", str(data)], stdout=log, stderr=log)
    try:
        wait_until(lambda: b"Starting s3 server" in (data.parent / "rclone.log").read_bytes(), 240, "rclone serves")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(240)


def served_by_best(data: Path) -> AbstractContextManager[str]:
    """The endpoint of the real server where there is one, else of the small one."""
    return served_by_rclone(data) if _has_s3() else served(SmallS3())


class SmallS3:
    """Path-style GET, PUT, DeleteObjects and ListObjectsV2 with pages, without a look at signatures.

    `fault` is asked before each request, with method and path; what it returns, a status and a body, is the answer.
    """

    def __init__(self, *, conditional: str = "412", page: int = 1000) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.conditional, self.page = conditional, page  # 412: heeds If-None-Match; 501: refuses it; "": ignores it
        self.fault: Callable[[str, str], tuple[int, bytes] | None] = lambda method, path: None

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        url = urlsplit(target)
        path = unquote(url.path).removeprefix("/")
        self.requests.append(f"{method} {path}")
        if failed := self.fault(method, path):
            return failed
        bucket, _, key = path.partition("/")
        if bucket != BUCKET:
            return 404, _error("NoSuchBucket")
        if method == "PUT":
            return self._put(key, headers, body)
        if method in ("POST", "DELETE"):
            return self._deleted(key, body.decode())
        if not key:
            return 200, self._listed(parse_qs(url.query))
        return (200, self.objects[key]) if key in self.objects else (404, _error("NoSuchKey"))

    def _deleted(self, key: str, body: str) -> tuple[int, bytes]:
        if key:  # Google's
            return (204, b"") if self.objects.pop(key, None) is not None else (404, _error("NoSuchKey"))
        keys = re.findall(r"<Key>([^<]*)</Key>", body)  # DeleteObjects of S3
        for one in keys:
            self.objects.pop(one, None)
        gone = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in keys)
        return 200, f"<DeleteResult>{gone}</DeleteResult>".encode()

    def _put(self, key: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        create = headers.get("If-None-Match") == "*" or headers.get("x-goog-if-generation-match") == "0"
        if create and self.conditional == "501":
            return 501, _error("NotImplemented")
        if create and self.conditional == "412" and key in self.objects:
            return 412, _error("PreconditionFailed")
        self.objects[key] = body
        return 200, b""

    def _listed(self, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = (query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        after = query.get("continuation-token", [""])[0]
        found: dict[str, str] = {}
        for key in sorted(self.objects):
            if key.startswith(prefix):
                name, cut, _ = key[len(prefix) :].partition(delimiter)
                if cut:
                    found[f"{prefix}{name}/"] = f"<CommonPrefixes><Prefix>{prefix}{name}/</Prefix></CommonPrefixes>"
                else:
                    about = f"<Size>{len(self.objects[key])}</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
                    found[key] = f"<Contents><Key>{key}</Key>{about}<ETag>x</ETag></Contents>"
        names = sorted(name for name in found if name > after)
        shown, more = names[: self.page], len(names) > self.page
        token = f"<NextContinuationToken>{shown[-1]}</NextContinuationToken>" if more else ""
        body = "".join(found[name] for name in shown)
        return (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}</ListBucketResult>".encode()
        )


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no: {KEY_ID} {SECRET}</Message></Error>".encode()


@contextmanager
def served(small: SmallS3) -> Iterator[str]:
    """The endpoint of a small server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, data = small.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", '"x"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="s3", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)

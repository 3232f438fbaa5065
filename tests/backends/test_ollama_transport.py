"""Ollama's Python package over our transport: bad replies, redirects and secrets are kept from it."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid.backends.ollama import transport
from hybrid.backends.ollama.api import address
from hybrid.backends.ollama.server import Server
from hybrid.backends.servers.replies import ErrorReply
from hybrid.errors import BadData, Temporary
from tests.support.faulty_ollama import FaultyOllama, Raw, Refuse, Reply
from tests.support.ollama_server import MODEL, OllamaServer


def lines(*values: Any) -> Raw:
    """A reply that streams these lines."""
    return Raw("".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values).encode())


class Redirect:
    """A redirect."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, reply: Reply) -> None:
        reply.handler.send_response(307)
        reply.handler.send_header("Location", self.url)
        reply.handler.send_header("Content-Length", "0")
        reply.handler.end_headers()


class SlowReply:
    """A reply that sends one byte now and then, for ever."""

    def __call__(self, reply: Reply) -> None:
        reply.start()
        while not reply.faulty.stopping.wait(0.05):
            reply.send(b" ")


ASKED = {
    "/api/tags": lambda server: server.models(),
    "/api/ps": lambda server: server.loaded(),
    "/api/show": lambda server: server.describe("m"),
    "/api/pull": lambda server: list(server.pull("m")),
}
every = pytest.mark.parametrize("path", ASKED)


def ask(path: str, behaviour: Any, **options: Any) -> Any:
    """The result of a request to a server that replies with `reply`."""
    with FaultyOllama(instead={path: behaviour}) as faulty:
        server = Server(faulty.url, **options)
        try:
            return ASKED[path](server)
        finally:
            server.close()


@every
def test_a_reply_without_end_is_not_read_into_memory(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_REPLY", 10_000)
    monkeypatch.setattr(transport, "MAX_LINE", 10_000)
    with pytest.raises(BadData, match="longer than 10,000 bytes"):
        ask(path, Raw(b'{"models": "' + b"x" * 1_000_000))


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps", "/api/show"])
def test_a_reply_that_trickles_is_not_waited_for(path: str) -> None:
    with pytest.raises(Temporary, match=f"did not answer {path} within 0.3 seconds"):
        ask(path, SlowReply(), seconds=0.3)


def test_a_stream_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STREAM_IDLE_SECONDS", 0.3)
    with pytest.raises(Temporary, match=r"did not answer /api/pull within 0\.3 seconds"):
        ask("/api/pull", lambda reply: reply.wait(30))


@every
def test_a_redirect_is_not_followed(path: str) -> None:
    with FaultyOllama() as other:
        with pytest.raises(ErrorReply, match="sends to another place"):
            ask(path, Redirect(other.url + path))
        assert other.heard == []


@every
@pytest.mark.parametrize("body", [b'"busy"', b"[1]", b"[" * 5000, b"\xff\xfe", b"", b'{"error": {"a": 1}}'])
def test_an_error_of_any_shape_is_an_error_in_words(path: str, body: bytes) -> None:
    def refuse(reply: Reply) -> None:
        reply.handler.send_response(500)
        reply.handler.send_header("Content-Length", str(len(body)))
        reply.handler.end_headers()
        reply.handler.wfile.write(body)

    with pytest.raises(ErrorReply) as caught:
        ask(path, refuse)
    assert caught.value.status == 500
    assert 0 < len(caught.value.message) <= 500


@every
@pytest.mark.parametrize(
    "body", [b"busy", b"[1]", b"3", b"[" * 5000, b"\xff", b'{"models": 3, "capabilities": 3, "completed": "x"}']
)
def test_a_reply_of_another_shape_is_bad_data(path: str, body: bytes) -> None:
    with pytest.raises(BadData):
        ask(path, Raw(body))


def test_what_the_packages_types_leave_out_is_there() -> None:
    shown = {
        "remote_host": "https://ollama.example",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "x"}],
    }
    with FaultyOllama(shown=shown) as faulty:
        server = Server(faulty.url)
        assert shown.items() <= server.describe("faulty").items()
        server.close()


def test_progress_comes_line_by_line_and_an_error_among_them_ends_it() -> None:
    progress = ask("/api/pull", lines({"status": "a\u2028b\x85c", "new field": [1]}, {"status": "success"}))
    assert [one.status for one in progress] == ["a\u2028b\x85c", "success"]
    with pytest.raises(ErrorReply, match="no space left") as caught:
        ask("/api/pull", lines({"status": "pulling"}, {"error": "write x: no space left on device"}))
    assert caught.value.status == 0


def test_a_connection_that_breaks_is_temporary() -> None:
    with pytest.raises(Temporary, match=r"connection to Ollama at .* broke"):
        ask("/api/pull", Raw(b'{"status": "pulling"}\n', closed=True))


def test_a_key_for_the_cloud_is_not_sent_to_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "secret-of-mine")
    with FaultyOllama() as faulty:
        server = Server(faulty.url)
        server.models()
        server.close()
        assert "secret-of-mine" not in str(faulty.heard)


def test_a_proxy_of_the_environment_stands_only_before_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with (
        FaultyOllama() as faulty,
        FaultyOllama(instead={"http://box.invalid:11434/api/tags": lines({"models": []})}) as proxy,
    ):
        monkeypatch.setenv("http_proxy", proxy.url)
        here, there = Server(faulty.url), Server("box.invalid")
        assert [one.model for one in here.models()] == ["faulty:latest"]
        assert list(there.models()) == []
        here.close()
        there.close()


@pytest.mark.parametrize("host", ["", "0.0.0.0:80", "[::]:5000", "::1", "https://box/ollama/", "box:99999", '"box"'])
def test_the_package_asks_where_we_say(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    server = Server()
    asked = server.package._client.build_request("GET", "/api/tags").url
    server.close()
    assert asked == server._transport._client.build_request("GET", address() + "/api/tags").url


@pytest.mark.slow
def test_the_whole_package_works_within_the_bounds(ollama_server: OllamaServer) -> None:
    server = Server(ollama_server.url)
    package = server.package
    *_, last = package.create("made", from_=MODEL, system="Be brief.", stream=True)
    assert last.status == "success"
    package.copy("made", "copied")
    assert {one.model: one.digest for one in server.models()} == ollama_server.models()
    assert server.describe("copied")["system"] == "Be brief."
    assert "completion" in (package.show("copied").capabilities or [])
    for name in ("made", "copied"):
        package.delete(name)
    assert not {"made:latest", "copied:latest"} & set(ollama_server.models())
    with pytest.raises(ErrorReply, match="not found") as caught:
        package.delete("made")
    assert caught.value.status == 404
    server.close()


def test_a_server_that_refuses_says_why() -> None:
    with pytest.raises(ErrorReply, match="a reason") as caught:
        ask("/api/tags", Refuse(403, "a reason"))
    assert caught.value.status == 403

"""`hybrid models pull`: a real Ollama server pulls from a local registry; after a kill it resumes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid.backends.ollama import pulling
from hybrid.commands.models import models
from hybrid.errors import HybridError
from hybrid.models.ollama_store import OllamaStore
from tests.support.faulty_ollama import FaultyOllama, Raw, Reply
from tests.support.ollama_registry import OllamaRegistry
from tests.support.ollama_server import OllamaServer, soon
from tests.support.packed_models import add_model, noise, sha256_of

RUN = "from hybrid.cli import main; main()"
SIZE = 3_000_000


def typed(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, with the message of an error."""
    done = CliRunner().invoke(models, ["pull", *arguments], standalone_mode=False)
    if isinstance(done.exception, HybridError):
        error = done.exception
        return error.exit_code, done.stdout, f"{done.stderr}{error.message}\n{error.hint}"
    if done.exception:
        raise done.exception
    return 0, done.stdout, done.stderr


def started(server: OllamaServer, *arguments: str, **how: Any) -> subprocess.Popen[bytes]:
    """`hybrid models pull ARGUMENTS` as a process of its own."""
    command = [sys.executable, "-c", RUN, "models", "pull", *arguments]
    return subprocess.Popen(command, env=server.env, stdout=subprocess.PIPE, **{"stderr": subprocess.PIPE, **how})


@pytest.fixture(scope="module")
def server(ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """A server with an empty store."""
    server = OllamaServer(ollama_binary, tmp_path_factory.mktemp("server"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def here(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> OllamaServer:
    """Makes that server the one that OLLAMA_HOST names."""
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    return server


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[OllamaRegistry]:
    with OllamaRegistry(OllamaStore(tmp_path / "registry")) as registry:
        yield registry


# --- a real server


@pytest.mark.slow
def test_a_model_arrives_byte_for_byte_and_is_not_fetched_twice(here: OllamaServer, registry: OllamaRegistry) -> None:
    manifest = add_model(registry.store, "lib/one:1b", noise(SIZE, 1))
    name = f"{registry.host}/lib/one:1b"
    code, out, err = typed("--insecure", name)
    assert (code, out) == (0, f"{name}@{sha256_of(manifest)[:12]}\n")
    assert f"pulling {sha256_of(noise(SIZE, 1))[:12]}: 3.0 of 3.0 MB" in err.splitlines()
    assert here.models()[name] == sha256_of(manifest)
    assert OllamaStore(here.store).blob(sha256_of(noise(SIZE, 1))).read_bytes() == noise(SIZE, 1)
    asked = len(registry.ranges)
    code, out, err = typed("--insecure", name, "--json")
    *events, last = map(json.loads, out.splitlines())
    size = SIZE + len(b"{{ .Prompt }}") + len(b'{"model_format":"gguf"}')
    assert last == {"event": "done", "name": name, "digest": sha256_of(manifest), "size": size}
    steps = [one for one in events if one.get("digest") == f"sha256:{sha256_of(noise(SIZE, 1))}"]
    assert [(one["event"], one["completed"], one["total"]) for one in steps] == [("step", SIZE, SIZE)]
    assert (code, err, len(registry.ranges)) == (0, "", asked)


@pytest.mark.slow
def test_a_pull_that_was_killed_goes_on_where_it_was(here: OllamaServer, registry: OllamaRegistry) -> None:
    add_model(registry.store, "lib/killed", noise(SIZE, 2))
    name, registry.holds_after = f"{registry.host}/lib/killed", 2 * SIZE // 3
    process = started(here, "--insecure", name)
    assert registry.held.wait(240)
    partial = here.store / "blobs" / f"sha256-{sha256_of(noise(SIZE, 2))}-partial"
    written = noise(SIZE, 2)[: SIZE // 2]
    assert soon(lambda: partial.read_bytes()[: len(written)] == written)  # what was sent may not be written yet
    process.kill()
    process.communicate()
    assert soon(lambda: json.loads(Path(f"{partial}-0").read_text() or "{}").get("Completed", 0) > 0)
    registry.free.set()
    assert typed("--insecure", name)[0] == 0
    first, *later = [int(said.removeprefix("bytes=").partition("-")[0]) for said in registry.ranges]
    assert first == 0
    assert later[0] > SIZE // 2
    assert OllamaStore(here.store).blob(sha256_of(noise(SIZE, 2))).read_bytes() == noise(SIZE, 2)


@pytest.mark.slow
def test_a_server_that_is_killed_is_temporary_and_the_same_command_goes_on(
    ollama_binary: Path, registry: OllamaRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(registry.store, "lib/one", noise(SIZE, 3))
    name, registry.holds_after = f"{registry.host}/lib/one", SIZE // 2
    (tmp_path / "own").mkdir()
    server = OllamaServer(ollama_binary, tmp_path / "own").start()
    try:
        process = started(server, "--insecure", name)
        assert registry.held.wait(240)
        server.kill()
        _, err = process.communicate(timeout=240)
        assert process.returncode == 5
        assert b"the same command again" in err
        registry.free.set()
        server.start()
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        assert typed("--insecure", name)[0] == 0
    finally:
        server.stop()


@pytest.mark.slow
def test_ctrl_c_is_exit_code_4_and_a_terminal_has_a_bar(here: OllamaServer, registry: OllamaRegistry) -> None:
    add_model(registry.store, "lib/stopped", noise(SIZE, 4))
    registry.holds_after = SIZE // 2
    terminal, other = pty.openpty()
    process = started(here, "--insecure", f"{registry.host}/lib/stopped", stderr=other, start_new_session=True)
    os.close(other)
    said = bytearray()
    try:
        while b"/3.0 MB" not in said:
            said += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        while b"interrupted" not in said:
            said += os.read(terminal, 4096)
    finally:
        process.communicate(timeout=240)
        os.close(terminal)
    assert process.returncode == 4
    assert f"pulling {sha256_of(noise(SIZE, 4))[:12]}".encode() in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name", "code", "words"),
    [
        ({}, "lib/none", 7, "no such model"),
        ({"status": 401}, "lib/error", 7, "refuses it"),
        ({"status": 412, "said": b"requires a newer version of Ollama"}, "lib/error", 7, "too old"),
        ({"status": 429}, "lib/error", 5, "overloaded or broken"),
        ({"status": 500}, "lib/error", 5, "overloaded or broken"),
        ({"damaged": True}, "lib/damaged", 5, "damaged, and is thrown away"),
        ({}, "lib/half", 5, "lacks a part"),
    ],
)
def test_what_is_wrong_with_a_registry_is_said_in_words(
    here: OllamaServer, registry: OllamaRegistry, change: dict[str, Any], name: str, code: int, words: str
) -> None:
    add_model(registry.store, "lib/damaged", noise(5000, 5))
    add_model(registry.store, "lib/half", noise(5000, 6))
    registry.store.blob(sha256_of(noise(5000, 6))).unlink()
    for attribute, value in change.items():
        setattr(registry, attribute, value)
    found, out, err = typed("--insecure", f"{registry.host}/{name}")
    assert (found, out) == (code, "")
    assert words in err


@pytest.mark.slow
def test_no_way_to_a_registry_and_one_without_tls_are_told_apart(here: OllamaServer, registry: OllamaRegistry) -> None:
    code, _, err = typed("--insecure", "127.0.0.1:9/lib/one")
    assert (code, "no way to its registry" in err) == (5, True)
    code, _, err = typed(f"{registry.host}/lib/one")
    assert (code, "--insecure" in err) == (2, True)


# --- without one


@pytest.mark.parametrize(
    "arguments", [("bad name",), ("a/b/c/d",), ("",), ("http://host/lib/one",), ("one", "--insecure")]
)
def test_a_name_that_is_none_is_a_usage_error(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert typed(*arguments)[0] == 2


def test_without_a_server_it_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    code, _, err = typed("tiny")
    assert (code, "ollama serve" in err) == (5, True)


def stream(*values: Any) -> Raw:
    return Raw("".join(f"{json.dumps(value)}\n" for value in values).encode())


def forever(reply: Reply) -> None:
    reply.start()
    while not reply.faulty.stopping.wait(0.02):
        reply.line({"status": "pulling abc", "digest": "sha256:abc", "completed": 1, "total": 9})


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (
            stream({"status": "pulling abc"}, {"error": "write /x: no space left on device"}),
            "disk of Ollama's store is full",
        ),
        (stream({"status": "pulling abc"}), "in the middle"),
        (stream({"status": "success"}), "does not list it"),
        (stream({"error": "something new"}), "something new"),
        (forever, "nothing more of 'tiny:latest' has come for 0.2 seconds"),
        (Raw(b'{"status": "pulling abc"}\n', closed=True), "broke"),
    ],
)
def test_what_goes_wrong_on_the_way_is_temporary(behaviour: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "STALLED", 0.2)
    with FaultyOllama(instead={"/api/pull": behaviour}) as faulty:
        monkeypatch.setenv("OLLAMA_HOST", faulty.url)
        code, out, err = typed("tiny")
    assert (code, out) == (5, "")
    assert words in err


def test_what_a_server_says_reaches_no_terminal_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = stream(
        {"status": "\x1b[2Jfaulty", "completed": -(1 << 62), "total": -5, "digest": "\x1b[1m"}, {"status": "success"}
    )
    with FaultyOllama(instead={"/api/pull": steps}) as faulty:
        monkeypatch.setenv("OLLAMA_HOST", faulty.url)
        code, out, err = typed("faulty")
    assert (code, "\x1b" in out + err) == (0, False)

"""The backend `ollama` on a real server with a real model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid import testing
from hybrid.backends.ollama.context_window import ContextWindow
from hybrid.backends.registry import digest_before_loading, open_backend
from hybrid.errors import CannotRun, Temporary
from hybrid.folder.medium import Disk
from hybrid.folder.runs import run_ids
from hybrid.folder.shards import MAX_FILE, shard_paths, verify_shard
from hybrid.protocols import Backend
from hybrid.records import Message, Request, Sampling
from tests.support.killed_at import killed_at
from tests.support.ollama_server import PATIENCE, SHOWN, OllamaServer
from tests.support.processes import children
from tests.support.real_machines import ITEMS, TASKS, Machine, Machines

pytestmark = pytest.mark.slow
each_check = pytest.mark.parametrize(
    "check", testing.BACKEND_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
SAME_BITS = {"greedy_is_deterministic", "seeds_reproduce_and_differ", "a_draw_does_not_depend_on_its_neighbours"}
SCHEMA = {"type": "object", "properties": {"verdict": {"enum": ["right", "wrong"]}}, "required": ["verdict"]}
ENDLESS = {"type": "array", "items": {"enum": ["heads", "tails"]}, "minItems": 1500}
LIKE_QWEN = ("RENDERER qwen3.5", "PARSER qwen3.5")
"""A Modelfile of a thinking model: the server's own code renders its prompts and parses its replies."""


def opened(server: OllamaServer, model: str = "smollm2", **options: str) -> Any:
    return open_backend("ollama", model, {"host": server.url, **options})


@pytest.fixture(scope="module")
def backend(ollama_server: OllamaServer) -> Backend:
    return opened(ollama_server)


@pytest.fixture(scope="module")
def one_at_a_time(ollama_server: OllamaServer) -> Backend:
    return opened(ollama_server, parallel="1")


@pytest.fixture
def own_server(ollama_server: OllamaServer, tmp_path: Path) -> Iterator[Callable[..., OllamaServer]]:
    """Starts servers that a test may kill or overload; they share the store of the session's server."""
    started: list[OllamaServer] = []

    def start(**settings: str) -> OllamaServer:
        root = tmp_path / f"server-{len(started)}"
        root.mkdir()
        started.append(OllamaServer(ollama_server.binary, root, settings, store=ollama_server.store).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@each_check
def test_ollama_keeps_the_promise(check: Callable[[Backend], None], backend: Backend, one_at_a_time: Backend) -> None:
    """Batched requests may differ in the last bits; with one request at a time they do not."""
    check(one_at_a_time if check.__name__.removeprefix("check_") in SAME_BITS else backend)


def test_the_digest_is_the_tags_and_is_known_before_loading(
    ollama_server: OllamaServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama_server.host)
    assert (
        backend.model.digest == digest_before_loading("ollama", "smollm2") == ollama_server.models()["smollm2:latest"]
    )
    assert backend.model.context == 8192


def test_an_answer_is_held_to_its_schema(backend: Backend) -> None:
    request = replace(testing.ask("Is 2 + 2 = 4?", max_tokens=40), schema=SCHEMA)
    (done,) = testing.answers(backend, request).values()
    assert json.loads(done.text or "")["verdict"] in ("right", "wrong")


def test_a_model_that_can_think_is_held_to_its_schema_too(ollama_server: OllamaServer) -> None:
    """/api/chat by itself ignores the schema of such a model when thinking is off."""
    thinker = opened(ollama_server, ollama_server.create("thinker", Path(ollama_server.model), *LIKE_QWEN))
    said = (Message("system", "You judge."), Message("user", "Is 2 + 2 = 4?"))
    asked = Request(Sampling(40), messages=said, schema=SCHEMA, key="one")
    more = replace(asked, messages=(*said, Message("assistant", "Yes."), Message("user", "Sure?")), key="more")
    free = replace(asked, schema=None, key="free")
    found = testing.answers(thinker, asked, more, free)
    assert json.loads(found["one"].text or "")["verdict"] in ("right", "wrong")
    assert found["more"].error is not None
    assert found["more"].error.kind == "unsupported"
    assert found["free"].prompt_tokens == found["one"].prompt_tokens  # the same prompt by both ways
    bare = ollama_server.api("/api/chat", {
        "model": "thinker", "messages": [{"role": one.role, "content": one.content} for one in said], "think": False,
        "format": SCHEMA, "stream": False, "options": {"num_predict": 40, "temperature": 0},
    })  # fmt: skip
    with pytest.raises(json.JSONDecodeError):  # else the detour is not needed any more
        json.loads(bare["message"]["content"])


def test_a_reply_that_ollama_breaks_off_is_an_error_that_says_why(backend: Backend) -> None:
    prompt = " ".join(["ha"] * 16)
    (done,) = testing.answers(backend, Request(Sampling(100), prompt=prompt, key="ha")).values()
    assert done.error is not None
    assert done.error.kind == "repetition"


def test_nothing_is_cut_in_silence(ollama_server: OllamaServer) -> None:
    """The context grows until a prompt fits; a prompt that never fits is an error, for chats and raw prompts."""
    digits = " ".join("7" * 150)  # more tokens than are guessed from its length
    two = (Message("user", "My name is Bo. " + digits), Message("user", "?"))
    chat, raw = Request(Sampling(4), messages=two, key="chat"), Request(Sampling(4), prompt=digits, key="raw")
    fixed = opened(ollama_server, context="128")
    for done in testing.answers(fixed, chat, raw).values():
        assert done.error is not None
        assert done.error.kind == "too-long"
        assert "128" in done.error.message
    fixed._builder.window = window = ContextWindow(
        most=512, first=0, fixed=False
    )  # what it is without the option, but small
    window.size = 256
    for done in testing.answers(fixed, chat, raw).values():
        assert done.prompt_tokens > 256
    assert window.size == 512
    tokens = {done.prompt_tokens for done in testing.answers(fixed, raw).values()}
    assert tokens == {ollama_server_tokens(ollama_server, digits)}


def ollama_server_tokens(server: OllamaServer, prompt: str) -> int:
    """The tokens of a raw prompt, as the server counts them in a large enough context."""
    body = {"model": "smollm2", "raw": True, "prompt": prompt, "stream": False}
    reply = server.api("/api/generate", {**body, "options": {"num_ctx": 512, "num_predict": 1}}, timeout=600)
    return int(reply["prompt_eval_count"])


def test_an_answer_that_fills_the_context_is_asked_again_with_a_larger_one(ollama_server: OllamaServer) -> None:
    story = Request(Sampling(80, temperature=0.8, seed=4), prompt="Once upon a time", key="s")
    small, fixed = opened(ollama_server, context="64"), opened(ollama_server)
    (cut,) = testing.answers(small, story).values()
    (whole,) = testing.answers(fixed, story).values()
    assert cut.error is not None
    assert cut.error.kind == "too-long"
    assert whole.text


@pytest.mark.parametrize("parallel", [1, 4])
def test_the_number_in_flight_follows_the_server(own_server: Callable[..., OllamaServer], parallel: int) -> None:
    """The number of replies until the limit is found depends on what else the machine does."""
    backend = opened(own_server(OLLAMA_NUM_PARALLEL=str(parallel)))
    requests = (testing.ask(f"Tell me about the number {n}.", f"k{n}", max_tokens=12) for n in range(150))
    stream = backend.generate(requests)
    pool, limits = stream.gi_frame.f_locals["self"], []
    for done in stream:
        assert done.text
        limits.append(pool._concurrency.limit)
        if len(limits) >= 20 and parallel + 1 <= sorted(limits[-10:])[5] <= parallel + 3:
            stream.close()
            return
    raise AssertionError(limits)


def test_a_full_queue_loses_nothing(own_server: Callable[..., OllamaServer]) -> None:
    """One request may wait while the model loads, the others are rejected."""
    server = own_server(OLLAMA_MAX_QUEUE="1")
    backend = opened(server, parallel="8")
    server.api("/api/generate", {"model": "smollm2", "keep_alive": 0})  # unloaded: all eight ask for loading
    found = testing.answers(backend, *(testing.ask(f"Say {n}", f"k{n}", max_tokens=4) for n in range(16)))
    assert all(done.text for done in found.values())
    assert "503" in server.log.read_text()


def test_a_tag_that_is_made_anew_is_noticed(ollama_server: OllamaServer) -> None:
    name = ollama_server.create("changing", Path(ollama_server.model))
    backend = opened(ollama_server, name, parallel="2")
    stream = backend.generate(testing.ask(f"Say {n}", f"k{n}", max_tokens=8) for n in range(1000))
    assert [done.text for done in islice(stream, 3)]
    ollama_server.create(name, Path(ollama_server.model), "SYSTEM You answer in French.")
    with pytest.raises(CannotRun, match="another one now"):
        list(stream)
    assert opened(ollama_server, name).model.digest != backend.model.digest


def test_a_server_that_is_killed_is_temporary_and_the_rest_is_asked_when_it_is_back(
    own_server: Callable[..., OllamaServer],
) -> None:
    server = own_server()
    backend = opened(server, patience="1")
    requests = {f"k{n}": testing.ask(f"Count to {n}.", f"k{n}", max_tokens=8) for n in range(40)}
    stream, found = backend.generate(iter(requests.values())), {}
    with pytest.raises(Temporary, match="server answers"):  # noqa: PT012
        for done in stream:
            found[done.key] = done
            if len(found) == 10:
                server.kill()
    assert 10 <= len(found) < 40
    server.start()
    rest = [request for key, request in requests.items() if key not in found]
    found |= testing.answers(opened(server), *rest)
    assert sorted(found) == sorted(requests)
    assert all(done.text for done in found.values())


def test_a_server_that_is_killed_and_comes_back_is_no_more_than_a_pause(
    own_server: Callable[..., OllamaServer],
) -> None:
    server = own_server()
    stream = opened(server).generate(testing.ask(f"Count to {n}.", f"k{n}", max_tokens=8) for n in range(16))
    texts = [next(stream).text for _ in range(5)]
    server.kill()
    server.start()
    texts += [done.text for done in stream]
    assert len(texts) == 16
    assert all(texts)


def test_a_runner_that_is_killed_is_replaced_and_nothing_is_lost(own_server: Callable[..., OllamaServer]) -> None:
    server = own_server()
    stream = opened(server).generate(testing.ask(f"Count to {n}.", f"k{n}", max_tokens=8) for n in range(16))
    texts = [next(stream).text for _ in range(5)]
    assert server.process is not None
    for runner in children(server.process.pid):
        with suppress(ProcessLookupError):
            os.kill(runner, signal.SIGKILL)
    texts += [done.text for done in stream]
    assert len(texts) == 16
    assert all(texts)


def test_who_hangs_up_stops_the_computing(ollama_server: OllamaServer) -> None:
    """Other requests do not wait behind long answers: in all slots of the server, and none ends before its limit."""
    backend, hello = opened(ollama_server), testing.ask("Hello", max_tokens=2)
    alone = testing.answers(backend, hello)["Hello"]
    stream = backend.generate(
        replace(testing.ask(f"Toss a coin {n}.", f"k{n}", max_tokens=2 if n == 0 else 4000), schema=ENDLESS)
        for n in range(9)
    )
    next(stream)
    stream.close()
    after = testing.answers(backend, hello)["Hello"]
    assert after.seconds < max(30, 30 * alone.seconds)


def test_a_run_goes_on_where_the_server_was_killed(own_server: Callable[..., OllamaServer], tmp_path: Path) -> None:
    """The exit code is 5 and answers are kept; the same command requests only the rest."""
    server, machines, items = own_server(), Machines(tmp_path), ITEMS * 3 // TASKS
    laptop = machines.side("laptop")
    laptop.environment["OLLAMA_HOST"] = server.url
    settings = [f"--set={one}" for one in (*machines.data(), "max_tokens=4")]
    command = ["run", "local", "seal-eval", *settings, "--limit=3", "--backend=ollama", "--model=smollm2"]
    assert server.process
    # at the first answer that a look at the digest confirmed: none of the later ones can be
    gone = killed_at("hybrid.execution.stage_work", "StageWork.answered", "after", 1, to=-server.process.pid)
    run = laptop.start(*command, "--backend-option=patience=1", "--backend-option=parallel=2", prefix=gone)
    _, words = run.communicate(timeout=PATIENCE)
    server.kill()
    assert run.returncode == 5, words
    assert "ollama serve" in words
    kept = records(laptop)
    assert 0 < len(kept) < items
    before = replies(server)
    server.start()
    again = laptop.run(*command, timeout=600)
    assert again.returncode == 0, again.stderr
    assert replies(server) - before == items - len(kept) + SHOWN
    assert len(records(laptop)) == items


def records(side: Machine) -> list[str]:
    """The keys in all shards of all runs in a folder."""
    folder = Disk(next(path.parent.parent for path in side.root.rglob("run.json")).parent)
    paths = [path for run in run_ids(folder) for path in shard_paths(folder, f"runs/{run}/answer")]
    return [one["key"] for path in paths for one in verify_shard(path, folder.read(path, MAX_FILE)).records]


def replies(server: OllamaServer) -> int:
    """The number of complete replies, from the server's log."""
    return sum(
        "| 200 |" in line and "/api/chat" in line for line in server.log.read_text(errors="replace").splitlines()
    )

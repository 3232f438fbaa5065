"""The backend `openai`: against llama.cpp's real server, and against one with one fault at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs httpx, which is not installed")

from hybrid import testing
from hybrid.backends.registry import digest_before_loading, open_backend
from hybrid.errors import CannotRun, HybridError, Temporary, UsageError
from hybrid.protocols import Backend
from hybrid.records import Completion, Message, Request, Sampling
from tests.support.faulty_openai import MODEL, Answer, FaultyOpenai, refused, said, stream
from tests.support.in_process import Hybrid
from tests.support.llama_server import KEY, NAME, llama_server
from tests.support.ollama_server import OllamaServer

SECRET = "sk-a-key-that-nobody-may-see"  # noqa: S105
SCHEMA = {"type": "object", "properties": {"age": {"enum": [7, 8]}}, "required": ["age"], "additionalProperties": False}
SAME_BITS = {"greedy_is_deterministic", "seeds_reproduce_and_differ", "a_draw_does_not_depend_on_its_neighbours"}


def opened(server: FaultyOpenai, **options: str) -> Any:
    return open_backend("openai", MODEL, {"url": server.url, "patience": "1", **options})


def one(backend: Backend, request: Request | None = None) -> Completion:
    """The only answer."""
    request = request or testing.ask("Hello")
    return testing.answers(backend, request)[request.key]


def failure(backend: Backend, request: Request | None = None) -> str:
    """Kind and message of the only failure."""
    error = one(backend, request).error
    return f"{error.kind}: {error.message}" if error else "none"


# --- a real server


@pytest.fixture(scope="module")
def server(smollm2_gguf: Path) -> Iterator[str]:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, which is not installed")
    with llama_server(smollm2_gguf) as url:
        yield url


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_OPENAI_KEY", KEY)


@pytest.mark.slow
@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("check", testing.BACKEND_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_a_real_llama_server_keeps_the_promise(check: Callable[[Backend], None], server: str) -> None:
    reuse = "false" if check.__name__.removeprefix("check_") in SAME_BITS else "true"
    check(open_backend("openai", NAME, {"url": server, "reuse": reuse}))


@pytest.mark.slow
@pytest.mark.usefixtures("key")
def test_a_real_llama_server_says_what_it_runs_and_its_key_stays_secret(
    server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    backend = open_backend("openai", NAME, {"url": server})
    told = json.dumps([backend.model.about, one(backend).text])
    assert backend.model.context == 2048
    assert backend.model.about["told"]["file"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert backend.model.about["weights"].startswith("not verified")
    assert digest_before_loading("openai", NAME, {"url": server}) == backend.model.digest
    assert KEY not in told + caplog.text
    with pytest.raises(CannotRun) as caught:
        open_backend("openai", "smol", {"url": server})
    assert NAME in caught.value.hint
    monkeypatch.setenv("HYBRID_OPENAI_KEY", "another")
    with pytest.raises(CannotRun, match="Invalid API Key") as caught:
        open_backend("openai", NAME, {"url": server})
    assert "HYBRID_OPENAI_KEY" in caught.value.hint


@pytest.mark.slow
def test_a_server_of_ollama_is_refused_since_it_cuts_prompts_and_its_own_backend_is_named(
    ollama_server: OllamaServer,
) -> None:
    with pytest.raises(CannotRun, match="cuts long prompts") as caught:
        open_backend("openai", f"{ollama_server.model}:latest", {"url": f"{ollama_server.url}/v1"})
    assert caught.value.hint == f"--backend ollama --backend-option host={ollama_server.url}"


# --- the address and the key


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs the address of its server"),
        ({"url": "ftp://host/v1"}, "is no address of a server"),
        ({"url": "http://host/v1?key=1"}, "is no address of a server"),
        ({"url": "http://user:password@host/v1"}, "holds a password"),
        ({"url": "http://127.0.0.1:9/v1", "key_from": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"url": "http://127.0.0.1:9/v1", "omit": "seeds"}, "omit names 'seeds'"),
    ],
)
def test_an_address_or_option_that_cannot_be_used_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        open_backend("openai", MODEL, options)
    assert "password@" not in caught.value.message


def test_a_key_goes_to_another_machine_only_encrypted_unless_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_OPENAI_KEY", SECRET)
    options = {"url": "http://host.invalid:1/v1", "patience": "1"}
    with pytest.raises(CannotRun, match="without encryption") as caught:
        open_backend("openai", MODEL, options)
    assert SECRET not in str(caught.value)
    with pytest.raises(Temporary, match="no server answers"):
        open_backend("openai", MODEL, {**options, "plain_http": "true"})


@pytest.mark.parametrize("key_from", ["", "none", "OWN_VARIABLE"])
def test_a_server_gets_the_key_that_is_meant_for_it_and_never_that_of_openai(
    key_from: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OPENAI_API_KEY": SECRET, "HYBRID_OPENAI_KEY": "usual", "OWN_VARIABLE": "own"}.items():
        monkeypatch.setenv(name, value)
    with FaultyOpenai() as server:
        one(opened(server, key_from=key_from))
        sent = {headers.get("Authorization", headers.get("authorization")) for _, headers, _ in server.heard}
    assert sent == {{"": "Bearer usual", "none": None, "OWN_VARIABLE": "Bearer own"}[key_from]}


def test_a_key_that_the_server_repeats_is_cut_out_of_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_OPENAI_KEY", SECRET)
    with FaultyOpenai([refused(400, f"bad header: Bearer {SECRET}")]) as server:
        told = failure(opened(server))
        assert told == "bad-request: bad header: Bearer [key]"
        server.script = [stream([{"error": {"message": f"you sent {SECRET}"}}])]
        assert SECRET not in failure(opened(server))
        server.listing = refused(401, f"{SECRET} is not a key")
        with pytest.raises(CannotRun) as caught:
            opened(server)
    assert SECRET not in caught.value.message + caught.value.hint
    assert "HYBRID_OPENAI_KEY" in caught.value.hint


# --- what is sent


def test_a_server_of_no_known_kind_gets_nothing_that_openai_does_not_know() -> None:
    request = Request(Sampling(7, temperature=0.5, top_p=0.9, seed=2**31 + 5, stop=("x",)), (Message("user", "Hi"),))
    with FaultyOpenai() as server:
        assert one(opened(server), request).text == "yes"
        one(opened(server, omit="seed,top_p"), request)
        first, second = server.asked
    assert first == {
        "model": MODEL,
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 6,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "Hi"}],
    }
    assert first.keys() - second.keys() == {"seed", "top_p"}


def test_a_schema_is_tried_before_it_is_relied_on() -> None:
    request = replace(testing.ask("How old?"), schema=SCHEMA)
    raw = Request(Sampling(4), prompt="How old? ", schema=SCHEMA, key="raw")
    with FaultyOpenai([said('{"word": "kelvormis"}'), said('{"age": 7}')]) as server:
        assert one(opened(server), request).text == '{"age": 7}'
        assert server.asked[1]["response_format"]["json_schema"]["schema"] == SCHEMA
    with FaultyOpenai([said("Hello, I am a server that does not read everything.")]) as server:
        backend = opened(server)
        assert "unsupported: the server passes over JSON schemas" in failure(backend, request)
        assert "unsupported" in failure(backend, raw)
        assert len(server.asked) == 1
    with FaultyOpenai([said('{"word": "kelvormis"}'), refused(400, "Invalid schema: no such type")]) as server:
        assert "bad-schema: Invalid schema" in failure(opened(server), request)


# --- what comes back


def test_a_thought_stands_apart_and_alone_it_is_no_answer() -> None:
    with FaultyOpenai([said("yes", thought="Let me see."), said("", thought="Let me see")]) as server:
        backend = opened(server)
        done = one(backend)
        assert (done.text, done.thought) == ("yes", "Let me see.")
        assert "no-answer: the model only thought" in failure(backend)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said("so", finish="length"), "too-long: the context was full after 3 new tokens"),
        (said("", finish="content_filter"), "filtered: the server has withheld"),
        (refused(400, "too much", "context_length_exceeded"), "too-long: the request does not fit"),
        (refused(400, "This model's maximum context length is 10 tokens"), "too-long: the request does not fit"),
        (refused(422, "what is that"), "bad-request: what is that"),
        (stream([{"error": {"message": "what is that", "code": 400}}]), "bad-request: what is that"),
        (said("yes", done=False), "engine: the reply of the server"),
        (said("yes", finish=None), "engine: the server ended its reply without a reason"),
        (said("yes", finish="tool_calls"), "engine: the server ended a reply because of 'tool_calls'"),
        (Answer(200, b'{"choices": []}'), "engine: the server does not stream its reply"),
        (Answer(200, b"data: {]\n\n"), "engine: "),
        (Answer(200, b"data: 5\n\n"), "engine: an event of the server's reply is not a JSON object"),
        (Answer(200, said("yes").body, cut=True), "engine: the connection to the server"),
        (refused(500, "out of order"), "engine: out of order (3 attempts)"),
        (stream([{"choices": [{"delta": {"content": 5}}]}]), "engine: the text in the server's reply is not a text"),
    ],
)
def test_what_is_no_answer_is_a_failure_of_the_item_and_never_a_text(answer: Answer, words: str) -> None:
    with FaultyOpenai([answer]) as server:
        assert words in failure(opened(server))


def test_a_reply_that_broke_once_is_asked_for_again() -> None:
    with FaultyOpenai([Answer(200, said("yes").body, cut=True), refused(502, "bad gateway"), said("yes")]) as server:
        assert one(opened(server)).text == "yes"
        assert len(server.asked) == 3


def test_a_stalled_reply_is_a_failure_after_its_time() -> None:
    with FaultyOpenai([Answer(200, said("yes").body, stall=20.0)]) as server:
        backend = opened(server, idle_timeout="1")
        backend._timeouts = replace(backend._timeouts, idle=0.05, first=5.0)
        assert "stalled: nothing came from the server" in failure(backend)


def test_a_busy_server_is_asked_again_when_it_says_and_gets_fewer_requests() -> None:
    with FaultyOpenai([refused(429, "slow down", Retry_After="0.2"), refused(503, "busy"), said("yes")]) as server:
        assert one(opened(server)).text == "yes"
        assert len(server.asked) == 3
        server.script = [refused(429, "slow down", Retry_After="0.1")]
        with pytest.raises(Temporary, match="has been busy for 1 seconds: slow down"):
            one(opened(server, busy_timeout="1"))


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refused(401, "no such key"), CannotRun, "no such key"),
        (refused(404, "The model does not exist"), CannotRun, "does not exist; asked for 'faulty'"),
        (refused(429, "You exceeded your quota", "insufficient_quota"), CannotRun, "exceeded your quota"),
        (Answer(302, b"", {"Location": "http://elsewhere/"}), CannotRun, "is not followed"),
    ],
)
def test_what_no_request_would_survive_ends_the_command(answer: Answer, kind: type[HybridError], words: str) -> None:
    with FaultyOpenai([answer]) as server, pytest.raises(kind, match=words):
        one(opened(server))


def test_a_model_that_is_exchanged_while_it_answers_is_noticed() -> None:
    first = {"id": MODEL, "owned_by": "vllm", "root": "org/first", "max_model_len": 100}
    with FaultyOpenai([said("yes")], [first]) as server:
        server.script = [Answer(404, b"{}"), said("yes")]  # it does not render chats
        backend = opened(server)
        assert backend.model.context == 100
        assert one(backend).text == "yes"
        server.models = [{**first, "root": "org/second"}]
        with pytest.raises(CannotRun, match="another one now"):
            one(backend)


def test_a_run_of_the_command_line_is_answered_by_a_server(hybrid: Hybrid, tmp_path: Path) -> None:
    data = tmp_path / "squad.json"
    answers = [{"text": "Paris", "answer_start": 0}]
    paragraph = {"context": "Paris is big.", "qas": [{"id": "q", "question": "What is big?", "answers": answers}]}
    data.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]}))
    with FaultyOpenai([said("Paris")]) as server:
        common = ("run", "local", "qa-eval", "--set", f"data={data}", "--folder", tmp_path / "f", "--backend", "openai")
        common = (*common, "--backend-option", f"url={server.url}", "-o", tmp_path / "o.json")
        done = hybrid(*common)
        assert done.code == 2
        assert "lists at /models" in done.stderr
        done = hybrid(*common, "--model", MODEL)
    assert done.code == 0, done.stderr
    assert '"text":"Paris"' in (tmp_path / "o.json").read_text()

"""The backend `ollama` against a server with one fault at a time (tests/support/faulty_ollama.py)."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid import testing
from hybrid.backends.memory import available
from hybrid.backends.ollama.api import address, digest_in, is_recent, model_name
from hybrid.backends.ollama.concurrency import ConcurrencyLimit
from hybrid.backends.ollama.context_window import ContextWindow
from hybrid.backends.registry import digest_before_loading, open_backend
from hybrid.doctor import environment
from hybrid.errors import BadData, CannotRun, HybridError, Temporary, UsageError
from hybrid.protocols import Backend
from hybrid.records import Adapter, Completion, Request, Sampling
from tests.support.faulty_ollama import (
    BUSY,
    CRASH,
    OTHER_DIGEST,
    Endless,
    ErrorLine,
    FaultyOllama,
    Raw,
    Refuse,
    Say,
    Stall,
    asked,
    by_body,
)

QUICK = {"idle_timeout": "1", "first_timeout": "1"}
"""Time-outs for a server that stalls. Elsewhere time-outs are long, since this process may be slow."""
SCHEMA = {"type": "object", "properties": {"verdict": {"enum": ["right", "wrong"]}}, "required": ["verdict"]}


def opened(server: FaultyOllama, **options: str) -> Any:
    return open_backend("ollama", "faulty", {"host": server.url, "patience": "1", **options})


def limits_for(fault: Any) -> dict[str, str]:
    """Options for a server with this fault."""
    return QUICK if isinstance(fault, Stall) else {}


def one(backend: Backend, request: Request | None = None) -> Completion:
    """The only answer."""
    request = request or testing.ask("Hello")
    return testing.answers(backend, request)[request.key]


def numbered(number: int, **sampling: Any) -> list[Request]:
    return [testing.ask(f"Question {n}", f"k{n}", **sampling) for n in range(number)]


# --- without a server


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":5000", "http://127.0.0.1:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("::1", "http://[::1]:11434"),
        ("box", "http://box:11434"),
        ("http://box", "http://box:80"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("box:nonsense", "http://box:11434"),
        ('"box:99999"', "http://box:11434"),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert address() == url
    assert address(host or "127.0.0.1") == url


def test_a_model_is_found_under_the_names_that_ollama_takes() -> None:
    tags = {"models": [{"name": "Small:latest", "digest": "ab" * 32}, {"name": "hf.co/a/b:Q4", "digest": "cd" * 32}]}
    for name in ("small", "Small:latest", "library/small", "registry.ollama.ai/library/small:latest"):
        assert digest_in(tags, name) == "ab" * 32
    assert digest_in(tags, "hf.co/a/b:Q4") == "cd" * 32
    assert digest_in(tags, "small:7b") == digest_in({"models": None}, "small") == ""
    assert model_name("host:5000/a/b") == "host:5000/a/b:latest"
    with pytest.raises(BadData, match="by no digest"):
        digest_in({"models": [{"name": "a:latest", "digest": "../../etc"}]}, "a")


@pytest.mark.parametrize(
    ("version", "recent"),
    [
        ("0.12.11", False),
        ("0.13.0", True),
        ("0.24.0-rc1", True),
        ("1.0", True),
        ("0.0.0", True),
        ("0.x", False),
        ("", False),
        ("x", False),
    ],
)
def test_only_a_version_that_tells_of_cut_prompts_is_used(version: str, recent: bool) -> None:
    assert is_recent(version) is recent


def test_the_context_grows_in_powers_of_two_and_never_shrinks() -> None:
    window = ContextWindow(most=20_000, first=2048, fixed=False)
    assert window.size_for(testing.ask("short")) == 2048
    assert window.size_for(testing.ask("a" * 6000)) == 4096
    assert window.size_for(testing.ask("ж" * 3000)) == 8192
    assert window.size_for(testing.ask("short")) == 8192
    assert window.can_grow_beyond(8192)
    assert window.size == 16_384
    assert window.can_grow_beyond(16_384)
    assert window.size == 20_000
    assert not window.can_grow_beyond(20_000)


def test_a_context_for_which_there_is_no_memory_is_not_tried_again() -> None:
    window = ContextWindow(most=32_768, first=4096, fixed=False)
    window.loaded_with(4096)
    assert window.size_for(testing.ask("a" * 40_000)) == 32_768
    assert window.refused(32_768)
    assert window.size_for(testing.ask("a" * 40_000)) == 4096
    assert not window.can_grow_beyond(4096)
    assert not window.refused(4096)


@pytest.mark.parametrize("slots", [1, 2, 4, 16])
def test_the_limit_finds_how_many_requests_the_server_computes_and_keeps_one_waiting(slots: int) -> None:
    limit = ConcurrencyLimit()
    for _ in range(400):
        limit.in_flight = limit.limit
        limit.finished(waited=max(0.0, (limit.limit - slots) / slots), served=1.0)
    assert slots < limit.limit <= slots + 2


def test_the_limit_is_halved_by_a_full_queue_and_bounded() -> None:
    limit, fixed = ConcurrencyLimit(), ConcurrencyLimit(fixed=3)
    for _ in range(500):
        limit.in_flight = limit.limit
        limit.finished(waited=0.0, served=1.0)
        fixed.finished(waited=0.0, served=1.0)
    assert limit.limit == 64
    limit.refused()
    assert limit.limit == 32
    for _ in range(9):
        limit.refused()
        fixed.refused()
    assert (limit.limit, fixed.limit) == (1, 3)


# --- opening


def test_a_server_that_does_not_run_is_temporary_and_says_what_to_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ollama").write_text("#!/bin/sh\n")
    (tmp_path / "ollama").chmod(0o755)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    for path, words in ((str(tmp_path), "not running"), ("", "not installed")):
        monkeypatch.setenv("PATH", path)
        for ask in (lambda: open_backend("ollama", "m", {}), lambda: digest_before_loading("ollama", "m")):
            with pytest.raises(Temporary, match=words) as caught:
                ask()
            assert "ollama serve" in caught.value.hint


@pytest.mark.parametrize(
    ("about", "error", "words"),
    [
        ({"version": "0.9.6"}, CannotRun, "old version"),
        ({"capabilities": ["embedding"]}, CannotRun, "does not generate text"),
        ({"shown": {"remote_host": "https://ollama.example"}}, CannotRun, "in a cloud"),
        ({"load_error": Refuse(500, "model requires more system memory (9.1 GiB) than is available (3.9 GiB)")},
         CannotRun, "too little memory"),
        ({"load_error": Refuse(500, "llama runner process has terminated: exit status 2")}, Temporary, "terminated"),
        ({"load_error": Refuse(401, "unauthorized")}, CannotRun, "refuses"),
        ({"load_seconds": 3.0}, Temporary, "did not answer"),
        ({"digest": "no digest"}, BadData, "by no digest"),
    ],
)  # fmt: skip
def test_what_keeps_a_model_from_being_opened_is_said_in_words(
    about: dict[str, Any], error: type[HybridError], words: str
) -> None:
    with FaultyOllama(**about) as server, pytest.raises(error, match=words) as caught:
        opened(server, load_timeout="1")
    assert caught.value.hint or error is BadData


def test_a_model_that_is_not_pulled_comes_with_the_command_that_pulls_it() -> None:
    with FaultyOllama() as server, pytest.raises(CannotRun, match="no model 'llama3'") as caught:
        open_backend("ollama", "llama3", {"host": server.url})
    assert "hybrid models pull llama3" in caught.value.hint
    assert "faulty:latest" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [("parallel", "0"), ("keep_alive", "soon"), ("patience", "x"), ("context", "1"), ("hots", "x"), ("threads", "0")],
)
def test_a_wrong_option_is_refused_before_anybody_is_asked(name: str, value: str) -> None:
    with pytest.raises(UsageError):
        open_backend("ollama", "m", {"host": "127.0.0.1:9", name: value})


def test_a_template_that_writes_the_date_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with FaultyOllama(template="{{ currentDate }}{{ .Prompt }}") as server:
        backend = opened(server)
        one(backend)
    assert "date" in backend.model.about
    assert [record.message for record in caplog.records if "date" in record.message]


# --- what is sent


def test_everything_that_shapes_an_answer_is_sent_and_nothing_is_left_to_the_models_file() -> None:
    parameters = 'num_ctx                        512\nstop                           "<|im_end|>"\n'
    with FaultyOllama([Say("a")], parameters=parameters, capabilities=["completion", "thinking"]) as server:
        backend = opened(server, keep_alive="600", threads="3")
        request = replace(
            testing.ask("Hello", max_tokens=7, temperature=0.5, top_p=0.9, seed=-1, stop=("x",)), schema=SCHEMA
        )
        one(backend, request)
        one(backend, Request(Sampling(2), prompt="raw", key="raw", logprobs=True))
    (path, chat), (raw_path, raw) = server.requests
    assert (path, raw_path) == ("/api/chat", "/api/generate")
    assert chat["options"] == {
        "num_ctx": 4096, "num_thread": 3, "num_predict": 7,
        "temperature": 0.5, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": (1 << 32) - 2,
        "stop": ["x", "<|im_end|>"],
    }  # fmt: skip
    assert chat["messages"] == [{"role": "user", "content": "Hello"}]
    assert (chat["truncate"], chat["shift"], chat["think"], chat["stream"]) == (False, False, False, True)
    assert (chat["format"], chat["keep_alive"]) == (SCHEMA, 600)
    assert (raw["raw"], raw["prompt"], raw["logprobs"]) == (True, "raw", True)
    assert "stop" not in raw["options"]
    assert {body["options"]["num_thread"] for body in (raw, *server.shows)} == {3}  # another one would load it anew


def test_what_ollama_cannot_be_asked_is_an_error_of_its_own() -> None:
    with FaultyOllama([Say("a")]) as server:
        backend = opened(server)
        adapted = replace(testing.ask("x", "adapted"), adapter=Adapter("0" * 64, "/nowhere"))
        found = testing.answers(backend, adapted, Request(Sampling(4), key="none"), testing.ask("x", "0", max_tokens=0))
    kinds = {key: done.error.kind for key, done in found.items() if done.error}
    assert kinds == {"adapted": "unsupported", "none": "bad-request", "0": "bad-request"}
    assert not server.requests


# --- faults


BROKEN = {
    "stalls before the first token": Stall(seconds=3),
    "stalls between tokens": Stall("ye", seconds=3),
    "ends without its last line": Say("yes", done=False),
    "ends in the middle of a line": Raw(b'{"message": {"content": "yes"'),
    "is cut by a closed connection": Raw(b'{"message": {"content": "yes"}, "done": false}\n', closed=True),
    "is not UTF-8": Raw(b'{"message": {"content": "\xff\xfe"}, "done": true, "done_reason": "stop"}\n'),
    "is no JSON": Raw(b"<html>502</html>\n"),
    "is no object": Raw(b"[1, 2]\n"),
    "has a text that is none": Raw(b'{"message": {"content": 7}, "done": true, "done_reason": "stop"}\n'),
    "has counts that are none": Raw(b'{"done": true, "done_reason": "stop", "eval_count": -1}\n'),
    "has an endless line": Raw(b'{"message": {"content": "' + b"x" * (5 << 20)),
    "does not say how it ended": Say("yes", finish="unload"),
    "never ends": Endless("x ", obeys=False),
    "has an error in its middle": ErrorLine("an error was encountered while running the model: unexpected EOF"),
    "tells of a crash": CRASH,
    "tells of a bare 500": Refuse(500, "something"),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_reply_that_does_not_come_whole_is_asked_for_again(fault: Any) -> None:
    with FaultyOllama([fault, Say("whole")]) as server:
        done = one(opened(server, **limits_for(fault)))
    assert (done.text, len(server.requests)) == ("whole", 2)


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_request_that_always_breaks_is_an_error_while_others_are_answered(fault: Any) -> None:
    with FaultyOllama([by_body(lambda body: fault if asked(body) == "bad" else Say("fine"))]) as server:
        found = testing.answers(opened(server, **limits_for(fault)), testing.ask("bad"), *numbered(3))
    error = found.pop("bad").error
    assert error is not None
    assert error.kind == ("stalled" if isinstance(fault, Stall) else "engine")
    assert error.message
    assert {done.text for done in found.values()} == {"fine"}
    assert [asked(body) for body in server.bodies].count("bad") == 3


@pytest.mark.parametrize("fault", [Stall(seconds=3), CRASH, Say("x", done=False)], ids=["stall", "crash", "cut"])
def test_a_server_that_answers_nobody_any_more_is_temporary(fault: Any) -> None:
    with FaultyOllama([Say("first"), fault]) as server:
        stream = opened(server, parallel="1", **limits_for(fault)).generate(iter(numbered(3)))
        assert next(stream).text == "first"
        with pytest.raises(Temporary, match="not answer any more"):
            next(stream)


TRIES = 3
"""A process that stands still for seconds, as on a busy machine, takes them for silence of the server."""


def test_a_slow_model_is_not_a_dead_one() -> None:
    def is_waited_for() -> bool:
        with FaultyOllama([Say("slowly" * 4, pieces=8, delay=0.5)]) as server:
            done = one(opened(server, idle_timeout="3", first_timeout="3"))
        return (done.text, len(server.requests)) == ("slowly" * 4, 1)

    assert any(is_waited_for() for _ in range(TRIES))


def test_a_reader_who_takes_his_time_is_no_silence_of_the_server() -> None:
    def is_waited_for() -> bool:
        with FaultyOllama([Say("slowly", pieces=3, delay=0.3)]) as server:
            stream = opened(server, parallel="2", idle_timeout="2", first_timeout="2").generate(iter(numbered(3)))
            texts = []
            for done in stream:
                texts.append(done.text)
                if len(texts) < 3:
                    time.sleep(2.3)  # longer than the time limit between two tokens
        return (texts, len(server.requests)) == (["slowly"] * 3, 3)

    assert any(is_waited_for() for _ in range(TRIES))


def test_a_full_queue_slows_down_and_loses_nothing() -> None:
    with FaultyOllama([BUSY, BUSY, BUSY, BUSY, Say("yes")]) as server:
        found = testing.answers(opened(server), *numbered(6))
    assert {done.text for done in found.values()} == {"yes"}
    assert len(server.requests) == 10


def test_a_queue_that_stays_full_is_temporary() -> None:
    with FaultyOllama([BUSY]) as server, pytest.raises(Temporary, match="has been busy"):
        one(opened(server, load_timeout="1"))


def test_a_reply_that_ollama_breaks_off_because_it_repeats_is_not_asked_for_again() -> None:
    with FaultyOllama([Say("ha" * 31, pieces=31, done=False)]) as server:
        done = one(opened(server), testing.ask("x", max_tokens=60))
    assert done.error is not None
    assert (done.error.kind, len(server.requests)) == ("repetition", 1)


def test_a_loop_of_spaces_ends_at_the_number_of_tokens_that_was_asked_for() -> None:
    with FaultyOllama([Endless(" ")]) as server:
        done = one(opened(server), testing.ask("x", max_tokens=12))
    assert (done.text, done.finish, done.completion_tokens) == (" " * 12, "length", 12)


def test_a_model_that_only_thought_gives_no_empty_answer() -> None:
    lines = [
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": ""}, "done": True, "done_reason": "length", "eval_count": 16},
    ]
    with FaultyOllama([Raw(b"".join(json.dumps(line).encode() + b"\n" for line in lines))]) as server:
        done = one(opened(server))
    assert done.error is not None
    assert done.error.kind == "no-answer"


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(400, "the input length exceeds the context length"),
        Say("cut", finish="length", tokens=3),
        Say("cut in silence", prompt_tokens=4096, tokens=3),
    ],
    ids=["refused", "full", "cut"],
)
def test_what_does_not_fit_is_asked_again_with_a_larger_context_and_then_an_error(fault: Any) -> None:
    def larger(body: dict[str, Any]) -> Any:
        return Say("fits") if body["options"]["num_ctx"] >= 8192 else fault

    with FaultyOllama([by_body(larger)], context=8192) as server:
        assert one(opened(server)).text == "fits"
        assert [body["options"]["num_ctx"] for body in server.bodies] == [4096, 8192]
    with FaultyOllama([fault], context=4096) as server:
        done = one(opened(server))
        assert done.error is not None
        assert (done.error.kind, len(server.requests)) == ("too-long", 1)
        assert "4096" in done.error.message


def test_one_prompt_that_needs_too_much_memory_fails_alone() -> None:
    def choose(body: dict[str, Any]) -> Any:
        large = body["options"]["num_ctx"] > 4096
        if large:
            return Refuse(500, "model requires more system memory (9 GiB) than is available (1 GiB)")
        return Refuse(400, "the input length exceeds the context length") if len(asked(body)) > 9000 else Say("fine")

    with FaultyOllama([by_body(choose)], context=131_072) as server:
        found = testing.answers(opened(server), testing.ask("a" * 40_000, "long"), *numbered(6))
    error = found.pop("long").error
    assert error is not None
    assert error.kind == "too-long"
    assert {done.text for done in found.values()} == {"fine"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Refuse(404, "model 'faulty' not found"), "no model"),
        (Refuse(401, "unauthorized"), "refuses"),
        (Refuse(500, "model requires more system memory (9 GiB) than is available (1 GiB)"), "too little memory"),
    ],
)
def test_what_no_request_can_get_past_ends_the_stream(fault: Any, words: str) -> None:
    with FaultyOllama([fault]) as server, pytest.raises(CannotRun, match=words):
        one(opened(server))


def test_a_model_that_changes_under_its_tag_is_noticed_and_nothing_after_it_is_given_out() -> None:
    with FaultyOllama([Say("old"), Say("old"), Say("new", delay=0.1)], changes_after=3) as server:
        stream, found = opened(server, parallel="1").generate(iter(numbered(9))), []
        with pytest.raises(CannotRun, match="another one now") as caught:
            found.extend(iter(lambda: next(stream).text, None))
    assert found == ["old"] * len(found)
    assert OTHER_DIGEST[:12] in caught.value.message
    assert len(server.requests) < 9


def test_a_server_that_comes_back_in_time_is_waited_for() -> None:
    with FaultyOllama([Say("yes", delay=0.2)]) as server:
        stream = opened(server, patience="20").generate(iter(numbered(12)))
        texts = [next(stream).text]
        server.stop()
        threading.Timer(1.0, server.start).start()
        texts += [done.text for done in stream]
    assert texts == ["yes"] * 12


def test_a_server_that_stays_away_is_temporary() -> None:
    with FaultyOllama([Say("yes", delay=0.1)]) as server:
        stream = opened(server).generate(iter(numbered(50)))
        assert next(stream).text == "yes"
        server.stop()
        with pytest.raises(Temporary, match=r"no .*server answers"):
            list(stream)


def test_who_stops_reading_hangs_up_and_leaves_the_backend_usable() -> None:
    with FaultyOllama([Say("first"), Say("x" * 200, pieces=200, delay=0.05)]) as server:
        backend = opened(server)
        stream = backend.generate(testing.ask(f"q{n}", max_tokens=200) for n in count())
        assert next(stream).text == "first"
        assert server.at_once > 0
        stream.close()
        until = time.monotonic() + 240
        while server.at_once and time.monotonic() < until:
            time.sleep(0.02)
        assert server.at_once == 0
        server.script[:] = [Say("again")]
        assert one(backend).text == "again"


def endless(timer: threading.Timer) -> Iterator[Request]:
    """Requests for ever; the timer runs from the first on, and not before somebody waits for its signal."""
    timer.start()
    for number in count():
        yield testing.ask(f"q{number}", max_tokens=40)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_at_any_moment_hangs_up_and_leaves_nothing_open(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with FaultyOllama([Say("x" * 30, pieces=30)]) as server:
            backend = opened(server)
            for moment in (0.0, 0.02, 0.05, 0.1, 0.2):
                timer = threading.Timer(0.05 + moment, os.kill, (os.getpid(), number))
                with pytest.raises(KeyboardInterrupt):
                    for _ in backend.generate(endless(timer)):
                        pass
            server.script[:] = [Say("again")]
            assert one(backend).text == "again"
    finally:
        signal.signal(number, before)


def test_requests_are_pulled_only_as_capacity_frees() -> None:
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        for pulled in count(1):
            yield testing.ask(f"q{pulled}")

    with FaultyOllama([Say("yes")]) as server:
        stream = opened(server, parallel="3").generate(endless())
        for answered in range(1, 30):
            next(stream)
            assert pulled - answered <= 1024  # most of them are finished, and wait for a look at the digest
        stream.close()
    assert server.most_at_once <= 3


def test_a_source_of_requests_may_ask_the_same_backend() -> None:
    with FaultyOllama([Say("yes")]) as server:
        backend = opened(server)
        requests = (testing.ask(f"{one(backend).text} {n}", f"k{n}") for n in range(3))
        assert len(testing.answers(backend, *list(requests))) == 3
        nested = (testing.ask(f"{one(backend).text} {n}", f"k{n}") for n in range(3))
        assert len(list(backend.generate(nested))) == 3


def test_inside_an_event_loop_it_says_so() -> None:
    import asyncio

    async def inside(backend: Backend) -> None:
        one(backend)

    with FaultyOllama() as server, pytest.raises(CannotRun, match="event loop"):
        asyncio.run(inside(opened(server)))


# --- what the doctor says


def doctor_lines(monkeypatch: pytest.MonkeyPatch, host: str) -> list[tuple[str, str]]:
    """The doctor's lines about the server, with what to do."""
    monkeypatch.setenv("OLLAMA_HOST", host)
    lines = [(one.what, one.do) for one in environment.backend_findings() if "llama" in one.what]
    return [
        line for line in lines if not line[0].startswith(("backend", "embedder", "default model"))
    ]  # its path may say llama


def test_the_doctor_tells_of_a_server_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyOllama() as server:
        ((what, do),) = doctor_lines(monkeypatch, server.url)
    assert what == f"Ollama 0.24.0 runs at {server.url}: 1 model; loaded: none"
    assert do == ""


def test_the_doctor_tells_of_a_model_that_is_larger_than_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if available() is None:
        pytest.skip("needs the right to read /proc/meminfo, which only Linux has")
    with FaultyOllama(size=1 << 50) as server:
        lines = doctor_lines(monkeypatch, server.url)
    assert "too little memory for its largest model: faulty has 1048576.0 GiB" in lines[1][0]


@pytest.mark.parametrize(
    ("about", "what", "do"),
    [({"version": "0.5.1"}, "old version", "install Ollama"), ({"version": None}, "old version", "install Ollama")],
)
def test_the_doctor_tells_of_an_old_version(
    about: dict[str, Any], what: str, do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyOllama(**about) as server:
        ((said, hint),) = doctor_lines(monkeypatch, server.url)
    assert what in said
    assert do in hint


def test_the_doctor_waits_for_no_server_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        started = time.monotonic()
        ((what, do),) = doctor_lines(monkeypatch, f"127.0.0.1:{stuck.getsockname()[1]}")
        assert time.monotonic() - started < 30
    assert "did not answer" in what
    assert do


def test_the_doctor_tells_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ((what, do),) = doctor_lines(monkeypatch, "127.0.0.1:9")
    assert "no" in what
    assert "ollama serve" in do


def test_without_its_libraries_the_doctor_says_so_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.LIBRARIES, "ollama", ("no_such_library",))  # type: ignore[arg-type]
    monkeypatch.setitem(environment.EXTRA_OF, "no_such_library", "ollama")
    assert doctor_lines(monkeypatch, "127.0.0.1:9") == []
    lines = {one.what: one.do for one in environment.backend_findings()}
    assert "'.[ollama]'" in lines["backend ollama: needs no_such_library, not installed"]

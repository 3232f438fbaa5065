"""Ollama silently drops what a model's template does not render: the backend finds that out when it opens the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ollama", reason="needs ollama, which is not installed")

from hybrid import testing
from hybrid.backends.ollama.diagnosis import diagnose
from hybrid.backends.registry import open_backend
from hybrid.errors import CannotRun, Temporary
from hybrid.records import Message, Request, Sampling
from tests.support.chat_gguf import write
from tests.support.faulty_ollama import BUSY, CRASH, FaultyOllama, Refuse, Render, chatml
from tests.support.ollama_server import OllamaServer

SYSTEM, HELLO = Message("system", "Judge."), Message("user", "Hello")
EARLIER = Message("user", "One?"), Message("assistant", "One.")
SAID = (SYSTEM, HELLO)
LONG = (*EARLIER, HELLO)


def chat(*messages: Message, key: str = "one", **sampling: Any) -> Request:
    return Request(Sampling(**{"max_tokens": 4, **sampling}), messages=messages, key=key)


def opened(host: str, model: str = "faulty", **options: str) -> Any:
    return open_backend("ollama", model, {"host": host, "patience": "1", **options})


def only(role: str) -> Render:
    """A template that drops the messages of other roles."""
    return lambda messages: chatml([one for one in messages if one["role"] != role])


def last_alone(messages: list[dict[str, str]]) -> str:
    return chatml(messages[-1:])


def run_together(messages: list[dict[str, str]]) -> str:
    """Renders as {{ .Prompt }}, which `ollama create` sets for a GGUF with an unknown template."""
    return "".join(one["content"] for one in messages if one["role"] != "system")


def unmarked_before(messages: list[dict[str, str]]) -> str:
    return run_together(messages) + "\n### Response:\n"


def raises_for_system(messages: list[dict[str, str]]) -> str | Refuse:
    refused = Refuse(400, "System role not supported")
    return refused if any(one["role"] == "system" for one in messages) else chatml(messages)


def test_a_usual_template_carries_everything_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with FaultyOllama() as server:
        backend = opened(server.url)
        testing.answers(backend, chat(*SAID))
    assert server.bodies[0]["messages"] == [{"role": one.role, "content": one.content} for one in SAID]
    assert not {"system", "turns"} & set(backend.model.about)
    assert not caplog.records
    assert {(body["options"]["num_ctx"], body["keep_alive"]) for body in server.shows} == {(4096, "30m")}


@pytest.mark.parametrize("render", [only("system"), raises_for_system])
def test_a_system_text_without_a_place_goes_before_the_users_and_that_is_said(
    render: Render, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyOllama(render=render) as server:
        backend = opened(server.url)
        testing.answers(backend, chat(*SAID), chat(SYSTEM, *LONG, key="long"))
    bodies = {len(body["messages"]): body["messages"] for body in server.bodies}
    assert bodies[1] == [{"role": "user", "content": "Judge.\n\nHello"}]
    assert [one["content"] for one in bodies[3]] == ["Judge.\n\nOne?", "One.", "Hello"]
    assert backend.model.about["system"]
    assert sum("system" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("render", [run_together, only("user")])
def test_a_chat_without_a_template_for_it_is_refused_before_anything_is_asked(render: Render) -> None:
    raw = Request(Sampling(4), prompt="Once", key="raw")
    with FaultyOllama(render=render) as server:
        backend = opened(server.url)
        for request in (chat(HELLO), chat(*SAID)):
            with pytest.raises(CannotRun, match="template") as caught:
                testing.answers(backend, request)
            assert "TEMPLATE" in caught.value.hint
        assert not server.requests
        assert testing.answers(backend, raw)["raw"].text


@pytest.mark.parametrize("render", [last_alone, unmarked_before, only("assistant")])
def test_earlier_turns_that_would_be_lost_or_run_together_are_refused(render: Render) -> None:
    with FaultyOllama(render=render) as server:
        found = testing.answers(opened(server.url), chat(HELLO), chat(*LONG, key="long"))
    assert found["one"].text
    assert found["long"].error is not None
    assert found["long"].error.kind == "unsupported"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("about", "sent"),
    [
        ({"template": "{{ .Prompt }}"}, None),
        ({"template": "{{ .System }} {{ .Prompt }}{{ .Response }}"}, None),
        ({"template": "Be good."}, None),
        ({"template": "[INST] {{ .Prompt }} [/INST]"}, ["Judge.\n\nHello"]),
        ({"template": "{{ .System }}USER: {{ .Prompt }}"}, ["Judge.", "Hello"]),
        ({"template": "{{ .Prompt }}", "shown": {"modelfile": "FROM x\nRENDERER qwen3.5\n"}}, ["Judge.", "Hello"]),
        ({"template": "{% for message in messages %}..."}, ["Judge.", "Hello"]),
    ],
)
def test_a_server_that_shows_no_prompt_is_judged_by_the_text_of_the_template(
    about: dict[str, Any], sent: list[str] | None
) -> None:
    with FaultyOllama(render=None, **about) as server:
        backend = opened(server.url)
        if sent is None:
            with pytest.raises(CannotRun, match="template"):
                testing.answers(backend, chat(*SAID))
        else:
            testing.answers(backend, chat(*SAID))
    assert [[one["content"] for one in body["messages"]] for body in server.bodies] == ([sent] if sent else [])


@pytest.mark.parametrize(
    ("answer", "error"),
    [(CRASH, Temporary), (BUSY, Temporary), (Refuse(500, "requires more system memory (9 GiB)"), CannotRun)],
)
def test_trouble_of_the_server_is_no_word_about_the_template(answer: Refuse, error: type[Exception]) -> None:
    with FaultyOllama(render=lambda messages: answer if len(messages) > 1 else "") as server, pytest.raises(error):
        opened(server.url)


@pytest.mark.parametrize(
    ("render", "more", "stop"),
    [
        (chatml, {}, ["x", "<|im_end|>"]),
        (chatml, {"parameters": 'stop "<|im_end|>"'}, ["x", "<|im_end|>"]),
        (chatml, {"shown": {"modelfile": "PARSER qwen3.5"}}, ["x"]),
        (lambda messages: chatml(messages).replace("<|im_end|>", "</s>"), {}, ["x"]),
        (lambda messages: chatml(messages) + "<|channel|>", {}, ["x"]),
    ],
)
def test_what_ends_a_turn_in_the_template_ends_an_answer(render: Render, more: dict[str, Any], stop: list[str]) -> None:
    """Ollama by itself stops only at the end tokens of the weights and the stop strings of the Modelfile."""
    with FaultyOllama(render=render, **more) as server:
        testing.answers(opened(server.url), chat(HELLO, stop=("x",)), Request(Sampling(4), prompt="Once", key="raw"))
    stops = {"raw" in body: body["options"].get("stop") for body in server.bodies}
    assert stops == {False: stop, True: None}


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d %B %Y"])
def test_a_date_that_the_server_itself_writes_is_told(form: str, caplog: pytest.LogCaptureFixture) -> None:
    with FaultyOllama(render=lambda messages: chatml(messages) + datetime.now().strftime(form)) as server:  # noqa: DTZ005
        backend = opened(server.url)
    assert backend.model.about["date"]
    assert ["date" in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("about", "words", "do"),
    [
        ({"template": "{{ .Prompt }}"}, "which no chat can be asked: faulty", "TEMPLATE"),
        ({"template": "[INST] {{ .Prompt }} [/INST]"}, "no system message", ""),
        ({"template": "{{ .Prompt }}", "capabilities": ["embedding"]}, "", ""),
        ({}, "", ""),
    ],
)
def test_the_doctor_tells_what_a_template_lacks(
    about: dict[str, Any], words: str, do: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyOllama(**about) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        _, *lines = diagnose()
    assert [(words in line, do in hint) for line, hint in lines] == ([(True, True)] if words else [])


# --- a real server

BARE = ("TEMPLATE {{ .Prompt }}",)
INSTRUCT = ('TEMPLATE """[INST] {{ .Prompt }} [/INST]{{ .Response }}</s>"""', "SYSTEM Own.")
LEGACY = ('TEMPLATE """{{ if .System }}SYS {{ .System }}{{ end }}\nUSER: {{ .Prompt }}\nASSISTANT: {{ .Response }}"""',)
EXAMPLES = ("SYSTEM Own.", "MESSAGE user m1", "MESSAGE assistant m2")
WRITTEN = ("RENDERER qwen3.5", "PARSER qwen3.5")


def made(server: OllamaServer, name: str, *lines: str) -> str:
    """A model with the session's weights and another template."""
    return server.create(name, Path(server.model), *lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "refusal", "system", "turns"),
    [
        (BARE, "has no chat template", True, True),
        (INSTRUCT, "", False, True),
        (LEGACY, "", True, True),
        (EXAMPLES, "", True, True),
        (WRITTEN, "", True, True),
    ],
    ids=["bare", "instruct", "legacy", "examples", "renderer"],
)
def test_a_real_server_shows_what_its_templates_carry(
    ollama_server: OllamaServer, lines: tuple[str, ...], refusal: str, system: bool, turns: bool
) -> None:
    chat_template = opened(ollama_server.url, made(ollama_server, "carries", *lines))._builder.info.chat_template
    assert (chat_template.refusal, chat_template.system, chat_template.turns) == (refusal, system, turns)


@pytest.mark.slow
def test_a_judge_never_judges_without_its_instruction(ollama_server: OllamaServer, tmp_path: Path) -> None:
    """Neither when it grades nor when it is checked."""
    name = made(ollama_server, "no-template", *BARE)
    answer = {"key": "0" * 64, "task": "t", "question": "t/0", "reference": "Paris", "view": {"question": "Which?"}}
    (tmp_path / "answers.jsonl").write_text(json.dumps({**answer, "text": "The city of Lyon"}) + "\n")
    environment = {**os.environ, "OLLAMA_HOST": ollama_server.url, "HYBRID_HOME": str(tmp_path / "home")}
    for command in (["grade", "answers.jsonl", "--grader", "judge"], ["judge", "check"]):
        done = subprocess.run(
            [sys.executable, "-m", "hybrid", *command, "--model", name],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 7, done.stderr
        assert f"'{name}' has no chat template" in done.stderr
        assert "TEMPLATE" in done.stderr
    assert not list(tmp_path.glob("*.grades.*"))


@pytest.mark.slow
def test_a_merged_system_text_reaches_a_real_model(ollama_server: OllamaServer) -> None:
    """The Modelfile's own system text, which the template drops, has no effect."""
    backend = opened(ollama_server.url, made(ollama_server, "merges", *INSTRUCT))
    short, by_hand = chat(HELLO, key="short"), chat(Message("user", "Judge.\n\nHello"), key="by hand")
    found = testing.answers(backend, short, by_hand, chat(*SAID))
    assert found["short"].prompt_tokens < found["one"].prompt_tokens == found["by hand"].prompt_tokens


TURNS = "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ if eq .Role `assistant` }}<|system|>{{ end }}{{ end }}"


@pytest.mark.slow
def test_a_real_answer_ends_with_its_turn_also_at_a_token_that_ollama_goes_on_after(
    ollama_server: OllamaServer, tmp_path: Path
) -> None:
    """The model generates only the token with which the template ends a turn."""
    weights = write(tmp_path / "tiny.gguf", None, likeliest="<|system|>")
    name = ollama_server.create("tiny-turns", weights, f'TEMPLATE """{TURNS}<|assistant|>"""')
    raw = Request(Sampling(4), prompt="Once", key="raw")
    found = testing.answers(opened(ollama_server.url, name), chat(HELLO), raw)
    assert (found["one"].text, found["one"].finish) == ("", "stop")
    assert found["raw"].text == 4 * "<|system|>"  # else this stop string is not needed any more

"""llama.cpp sees the same prompts as the other backends: its rendering of a template is compared with ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid import testing
from hybrid.backends.registry import open_backend
from hybrid.errors import CannotRun
from hybrid.protocols import Backend
from hybrid.records import Message, Request, Sampling
from tests.backends.test_backends import skip_without
from tests.backends.test_chat_templates import DROPS_SYSTEM, NO_SYSTEM, UNUSABLE, each
from tests.support.chat_gguf import write

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"a": {"enum": [7, 8]}}, "required": ["a"], "additionalProperties": False}
Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a tiny model with a template; all are closed at the end."""
    skip_without("xllamacpp")
    backends: list[Backend] = []

    def make(template: str | None, **how: str) -> Backend:
        path = write(tmp_path / f"tiny-{len(backends)}.gguf", template, **how)
        backends.append(open_backend("llamacpp", str(path), {"context": "256", "threads": "1", "parallel": "1"}))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


def raw(prompt: str, **more: Any) -> Request:
    return Request(Sampling(more.pop("max_tokens", 8)), prompt=prompt, key=prompt, **more)


@pytest.mark.parametrize("template", [template for template, _ in UNUSABLE])
def test_a_template_that_is_no_program_refuses_chats_and_no_raw_prompt(
    opened: Open, template: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = opened(template, likeliest="<|eos|>")
    assert testing.answers(backend, raw("raw"))["raw"].finish == "stop"
    with pytest.raises(CannotRun, match="has a chat template that writes no chat") as caught:
        testing.answers(backend, testing.ask("Hi"))
    assert "raw prompts" in caught.value.hint
    assert caplog.text == ""


def test_a_gguf_of_any_name_is_read(opened: Open, tmp_path: Path) -> None:
    path = write(tmp_path / "model.bin", None, likeliest="<|eos|>")
    backend = open_backend("llamacpp", str(path), {"context": "256", "threads": "1", "parallel": "1"})
    assert testing.answers(backend, raw("raw"))["raw"].finish == "stop"
    backend.close()


@pytest.mark.parametrize("end", ["<|end|>", "<|return|>", "<|eos|>"])
def test_an_answer_ends_with_its_turn_also_at_a_token_that_llama_cpp_does_not_end_at(opened: Open, end: str) -> None:
    backend = opened(each(end), likeliest=end)
    for done in testing.answers(backend, testing.ask("chat"), raw("raw")).values():
        assert (done.text, done.finish, done.completion_tokens) == ("", "stop", 1)


def test_a_chat_that_is_written_beforehand_has_the_tokens_that_the_library_gives_it(opened: Open) -> None:
    backend = opened(each("<|user|>"), likeliest="<|user|>")
    assert backend._client.hidden_turn_end == "<|user|>"
    before = testing.answers(backend, testing.ask("Hi"))["Hi"]
    backend._client.hidden_turn_end = ""
    after = testing.answers(backend, testing.ask("Hi"))["Hi"]
    assert (before.prompt_tokens, before.finish) == (after.prompt_tokens, "stop")
    assert (after.finish, after.completion_tokens) == ("length", 16), "the fault is there without it"


def test_an_end_that_is_no_token_is_a_stop_string_of_chats(opened: Open) -> None:
    backend = opened(each("<END>"))
    assert backend._chat_template.stops == ("<END>",)
    testing.answers(backend, testing.ask("Hi"))


def test_the_day_that_a_template_asks_for_is_the_pinned_one(opened: Open) -> None:
    inside = (
        "{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ day() }}, {{ strftime_now(\"%Y-%m-%d\") }}"
    )
    backend = opened(each("<|end|>", start=inside))
    chat, client = [Message("user", "Hi")], backend._client
    assert client.rendered(chat, {"date_string": "1 Feb 2025"}).startswith("01 Feb 2025, 2025-02-01<|user|>Hi")
    assert client.rendered(chat, {"date_string": "some day"}).startswith("some day, some day<|user|>Hi")
    assert client.rendered(chat, {}).startswith("26 Jul 2024, 2024-07-26<|user|>Hi")
    lengths = {
        date: testing.answers(backend, replace(testing.ask("Hi"), template={"date_string": date}))["Hi"].prompt_tokens
        for date in ("1 Feb 2025", "d")
    }
    assert lengths["1 Feb 2025"] - lengths["d"] == len("01 Feb 2025, 2025-02-01") - len("d, d")


def test_a_gguf_without_a_template_answers_raw_prompts_and_refuses_chats(opened: Open) -> None:
    backend = opened(None)
    with pytest.raises(CannotRun, match="has no chat template") as caught:
        testing.answers(backend, testing.ask("Hi"))
    assert "raw prompts" in caught.value.hint
    assert testing.answers(backend, raw("Hi"))["Hi"].text is not None


@pytest.mark.parametrize("template", [each("<|end|>", start=NO_SYSTEM), DROPS_SYSTEM])
def test_a_system_message_that_the_template_cannot_write_goes_before_the_users_first(
    opened: Open, template: str
) -> None:
    backend = opened(template)
    said = (Message("system", "Be brief."), Message("user", "Hi"))
    done = testing.answers(backend, Request(Sampling(2), messages=said, key="k"))["k"]
    prompt = backend._client.rendered([Message("user", "Be brief.\n\nHi")], {})
    assert done.prompt_tokens == len(backend._client._tokenize(prompt))
    assert "system" in backend.model.about


def test_a_raw_prompt_is_held_to_its_schema_or_refused(opened: Open) -> None:
    backend = opened(each("<|end|>"), likeliest="{")
    for prompt in ("raw", "again"):
        done = testing.answers(backend, raw(prompt, schema=SCHEMA, max_tokens=60))[prompt]
        assert json.loads(done.text or "")["a"] in (7, 8)
    for schema in ({"type": "no such type"}, {"pattern": "(?<=x)y("}):
        error = testing.answers(backend, raw("bad", schema=schema))["bad"].error
        assert error is not None
        assert error.kind == "bad-schema"

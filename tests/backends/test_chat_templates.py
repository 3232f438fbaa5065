"""What a chat template supports, how it ends a turn, and which date it writes: templates as in real models."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.chat_templates import ChatTemplate, chat_template_of
from hybrid.backends.dates import strftime_now
from hybrid.backends.prompts import BadRequest, render_chat
from hybrid.errors import CannotRun
from hybrid.protocols import Backend
from hybrid.records import Message, Request, Sampling
from hybrid.testing import answers, ask
from tests.conftest import needs_torch

pytestmark = pytest.mark.slow

MARKS = ("<|end|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|return|>")
TURN = "{{ '<|' + m.role + '|>' + m.content }}"
EACH = "{% for m in messages %}" + TURN + "END{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def each(end: str, *, start: str = "") -> str:
    """A template that writes every message, followed by `end`."""
    return start + EACH.replace("END", end)


DROPS_SYSTEM = each("<|end|>").replace("messages %}", "messages if m.role != 'system' %}", 1)


def tokenizer(template: str | None) -> Any:
    needs_torch()
    from tests.support import small_hf_model

    return small_hf_model.made(MARKS, template)


def chat_template(template: str | None) -> ChatTemplate:
    return chat_template_of(tokenizer(template), "model")


def chat(*messages: tuple[str, str]) -> Request:
    said: list[Any] = [Message(role, content) for role, content in messages]  # type: ignore[arg-type]
    return Request(Sampling(4, stop=("mine",)), messages=tuple(said), key="k")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (each("<|end|>\n"), "<|end|>"),
        (each(" <|end|>"), "<|end|>"),
        (each("{% if not loop.last %}<|end|>{% endif %}"), "<|end|>"),
        (each(""), "<|user|>"),
        (each("{{ '<|return|>' if loop.last else '<|end|>' }}"), "<|return|>"),
        (each("<|end|>", start=NO_SYSTEM), "<|end|>"),
        (each("<|end|>", start="{{ strftime_now('%Y') }}"), "<|end|>"),
    ],
)
def test_a_turn_ends_with_the_token_that_the_template_writes_behind_an_answer(template: str, end: str) -> None:
    assert chat_template(template).ends == {MARKS.index(end)}
    assert chat_template(template).stops == ()


def test_an_end_that_is_no_token_is_a_stop_string() -> None:
    found = chat_template(each("<|im_end|>\n"))
    assert (found.ends, found.stops) == (frozenset(), ("<|im_end|>",))
    assert found.fit(chat(("user", "Hi"))).sampling.stop == ("mine", "<|im_end|>")
    raw = Request(Sampling(4), prompt="Hi")
    assert found.fit(raw) is raw


@pytest.mark.parametrize("behind", ["", "\n", ".\n", "\n### User: "])
def test_words_behind_an_answer_are_not_its_end(behind: str) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}BEHIND{% endfor %}".replace("BEHIND", behind)
    assert chat_template(template) == ChatTemplate("model")


@pytest.mark.parametrize("template", [each("<|end|>", start=NO_SYSTEM), DROPS_SYSTEM])
def test_a_system_message_that_the_template_cannot_write_goes_before_the_users_first(
    template: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = chat_template(template)
    fitted = found.fit(chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Go")))
    assert [(one.role, one.content) for one in fitted.messages] == [
        ("user", "Be brief.\n\nHi"),
        ("assistant", "Yes?"),
        ("user", "Go"),
    ]
    assert fitted.key == "k"
    with pytest.raises(BadRequest, match="no user speaks first"):
        found.fit(chat(("system", "Be brief.")))
    with caplog.at_level(logging.WARNING, "hybrid"):
        found.warn()
    assert "'model' has no system message" in caplog.text
    assert "system" in found.about()


def test_an_ordinary_template_changes_no_chat_and_nothing_is_said_of_it(caplog: pytest.LogCaptureFixture) -> None:
    found, request = chat_template(each("<|end|>")), chat(("system", "Be brief."), ("user", "Hi"))
    assert found.fit(request) == request
    found.warn()
    assert (found.about(), caplog.text) == ({}, "")


def test_a_chat_whose_first_turns_would_be_dropped_is_refused() -> None:
    found = chat_template("<|user|>{{ messages[-1].content }}<|assistant|>")
    with pytest.raises(BadRequest, match="the last message alone") as caught:
        found.fit(chat(("user", "Hi"), ("assistant", "Yes?"), ("user", "Go")))
    assert caught.value.failure.kind == "unsupported"
    assert [one.content for one in found.fit(chat(("system", "Be brief."), ("user", "Hi"))).messages] == [
        "Be brief.\n\nHi"
    ]


UNUSABLE = [
    (template, "has a chat template that writes no chat")
    for template in (
        "{% for message in messages %}{{ message.content }",
        "{{ messages | no_such_filter }}",
        "{% endfor %}",
        "{{ raise_exception('no chats') }}",
    )
]
"""Templates that are not valid programs, or raise for every chat."""


def test_nothing_false_is_said_of_a_template_that_is_no_program(caplog: pytest.LogCaptureFixture) -> None:
    found = chat_template("{% endfor %}")
    found.warn()
    assert caplog.text == ""
    assert "unknown tag" in found.refusal


@pytest.mark.parametrize(
    ("template", "message"),
    [(None, "has no chat template"), ("<|user|>Hello", "does not write what the user says"), *UNUSABLE],
)
def test_a_model_that_is_not_for_chats_says_so_and_answers_raw_prompts(template: str | None, message: str) -> None:
    found = chat_template(template)
    with pytest.raises(CannotRun, match=message) as caught:
        found.fit(chat(("user", "Hi")))
    assert "raw prompts" in caught.value.hint
    assert found.fit(Request(Sampling(4), prompt="Hi")).prompt == "Hi"


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"date_string": "1 Feb 2025"}, "01 February 2025, Saturday 00:00"),
        ({"date_string": "2025-02-01"}, "01 February 2025, Saturday 00:00"),
        ({"date_string": "February 1, 2025"}, "01 February 2025, Saturday 00:00"),
        ({"date_string": "the day of the flood"}, "the day of the flood"),
        ({}, "26 July 2024, Friday 00:00"),
    ],
)
def test_a_template_that_asks_for_the_day_is_told_the_pinned_one(settings: dict[str, str], written: str) -> None:
    asking = tokenizer("{{ strftime_now('%d %B %Y, %A %H:%M') }} {{ messages[0].content }}")
    assert render_chat(asking, [Message("user", "Hi")], settings) == f"{written} Hi"
    assert strftime_now(settings)("%d %B %Y, %A %H:%M") == written


@pytest.fixture(scope="module")
def ends_at_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A model that always generates its first token, <|end|>, and whose configuration names another end token."""
    from transformers import AutoModelForCausalLM

    from hybrid.backends.registry import open_backend
    from tests.support import small_hf_model

    words = tokenizer(each("<|end|>"))
    words.eos_token = "<|eos|>"  # noqa: S105
    folder = small_hf_model.write_model(tmp_path_factory.mktemp("ends"), words)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data.zero_()
    model.save_pretrained(folder)
    backend = open_backend("transformers", str(folder), {"device": "cpu"})
    yield backend
    backend.close()


@pytest.mark.filterwarnings("ignore")
def test_an_answer_ends_with_its_turn_whatever_the_configuration_names(ends_at_once: Backend) -> None:
    raw = Request(Sampling(8), prompt="Hi", key="raw")
    for done in answers(ends_at_once, ask("chat"), raw).values():
        assert (done.text, done.finish, done.completion_tokens) == ("", "stop", 1)


@pytest.mark.filterwarnings("ignore")
def test_a_grammar_ends_with_the_turn_and_its_answer_has_no_log_probability(ends_at_once: Backend) -> None:
    """The most probable token is the end of the turn: it is generated as soon as the number may end, not before."""
    number = {"type": "integer"}
    raw = Request(Sampling(8), prompt="Hi", schema=number, logprobs=True, key="raw")
    for done in answers(
        ends_at_once, replace(raw, prompt="", messages=(Message("user", "Hi"),), key="chat"), raw
    ).values():
        assert done.text is not None
        assert len(done.text.removeprefix("-")) == 1
        assert (done.finish, done.logprob) == ("stop", None)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_a_template_answers_raw_prompts_and_refuses_chats(tiny_llama: Path, tmp_path: Path) -> None:
    from hybrid.backends.registry import open_backend

    folder = tmp_path / "bare"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        if file.suffix != ".jinja":
            (folder / file.name).hardlink_to(file)
    backend = open_backend("transformers", str(folder), {"device": "cpu"})
    with pytest.raises(CannotRun, match="has no chat template"):
        answers(backend, ask("Hi"))
    assert answers(backend, Request(Sampling(2), prompt="Hi", key="raw"))["raw"].text is not None

"""Thinking models on every backend: thinking is off by default, a request can switch it on, thoughts are separated."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.backends.registry import open_backend
from hybrid.protocols import Backend
from hybrid.records import Completion, Example, Message, Request, Sampling
from hybrid.testing import answers
from hybrid.tuning import Tuning
from tests.conftest import needs_torch
from tests.support.fixed_answer_models import gguf_file, hf_folder
from tests.support.ollama_server import OllamaServer

pytestmark = pytest.mark.slow
MARKS = ("[THINK]", "[/THINK]")
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}[THINK]\n\n[/THINK]"
    "{% else %}[THINK]{% endif %}{% endif %}"
)
RECITED = "[THINK]hm[/THINK]yes"
ASKED = Request(Sampling(20), messages=(Message("user", "Hi"),), template={"enable_thinking": True}, key="thinks")
REQUESTS = (
    ASKED,
    replace(ASKED, template={}, key="plain"),
    replace(ASKED, sampling=Sampling(2), key="cut"),
    replace(ASKED, sampling=Sampling(20, stop=("e",)), key="stopped"),
    replace(ASKED, schema={"type": "boolean"}, key="schema"),
    Request(Sampling(20), prompt="a[THINK]", key="raw"),
)
"""In `plain` the prompt ends with the closing mark, in the others with the opening one."""


def summary(done: Completion) -> tuple[str, str | None, str | None, str, int, int]:
    kind = done.error.kind if done.error else None
    return done.thought, done.text, kind, done.finish, done.prompt_tokens, done.completion_tokens


@pytest.fixture(scope="module", params=["llamacpp", "transformers"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A model whose thought marks are special tokens, which engines remove from texts."""
    folder = tmp_path_factory.mktemp("reciting")
    if request.param == "llamacpp":
        pytest.importorskip("xllamacpp")
        pytest.importorskip("gguf")
        model = gguf_file(folder / "model.gguf", MARKS, RECITED, TEMPLATE)
    else:
        needs_torch()
        model = hf_folder(folder, MARKS, RECITED, TEMPLATE)
    opened = open_backend(request.param, str(model), {})
    yield opened
    opened.close()


def test_thoughts_are_set_apart_the_same_way_everywhere(backend: Backend) -> None:
    found = answers(backend, *REQUESTS)
    assert {key: summary(done) for key, done in found.items() if key != "schema"} == {
        "thinks": ("hm[/THINK]", "yes", None, "stop", 10, 7),
        "plain": ("", "yes", None, "stop", 13, 4),
        "cut": ("hm", None, "no-answer", "length", 10, 2),
        "stopped": ("hm[/THINK]", "y", None, "stop", 10, 5),
        "raw": ("hm[/THINK]", "yes", None, "stop", 2, 7),
    }
    assert found["schema"].text in ("true", "false")
    assert not found["schema"].thought


def test_a_schema_is_enforced_with_the_tokens_of_the_model_that_is_asked(tmp_path: Path) -> None:
    """llama.cpp takes a model that was loaded where another one was freed for that one, about every third time."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    one = gguf_file(tmp_path / "one.gguf", MARKS, RECITED, TEMPLATE)
    more = gguf_file(tmp_path / "more.gguf", (*MARKS, "<x>", "<y>"), RECITED, TEMPLATE)
    for model in (one, more) * 10:
        opened = open_backend("llamacpp", str(model), {})
        assert answers(opened, REQUESTS[-2])["schema"].text in ("true", "false")
        opened.close()
        del opened  # frees the model


def test_two_models_that_are_open_at_once_are_held_to_schemas_each_with_its_own_tokens(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    vocabularies = (MARKS, (*MARKS, "<x>", "<y>"))
    files = [gguf_file(tmp_path / f"{n}.gguf", marks, RECITED, TEMPLATE) for n, marks in enumerate(vocabularies)]
    opened = [open_backend("llamacpp", str(file), {}) for file in files]
    requests = [replace(REQUESTS[-2], key=str(n)) for n in range(30)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: list(one.generate(iter(requests))), opened))
    assert [len(done) for done in found] == [30, 30]
    assert {one.text for done in found for one in done} <= {"true", "false"}
    for one in opened:
        one.close()


R1 = 'TEMPLATE """{{ range .Messages }}{{ .Content }} {{ end }}<think>"""'
"""A template that opens a thought; Ollama does not list its model as a thinking one."""


def test_ollama_sets_apart_what_it_does_not_know_to_be_a_thought(ollama_server: OllamaServer, tmp_path: Path) -> None:
    model = gguf_file(tmp_path / "model.gguf", ("<think>", "</think>"), "<think>hm</think>yes", "", shown=True)
    name = ollama_server.create("reciter", model, R1)
    opened = open_backend("ollama", name, {"host": ollama_server.url, "parallel": "1"})
    asked = replace(ASKED, template={})
    found = answers(opened, asked, replace(asked, sampling=Sampling(2), key="cut"))
    assert summary(found["thinks"])[:4] == ("hm</think>", "yes", None, "stop")
    assert summary(found["cut"])[:4] == ("hm", None, "no-answer", "length")


def test_a_example_shows_the_prompt_that_is_asked_with(tmp_path: Path) -> None:
    """With the empty thought of the switch, which this template omits from finished answers."""
    needs_torch()
    from transformers import AutoTokenizer

    from hybrid.backends.prompts import prompt_ids
    from hybrid.backends.tuned.examples import texts_of

    tokenizer = AutoTokenizer.from_pretrained(hf_folder(tmp_path, MARKS, RECITED, TEMPLATE))
    said = (Message("user", "Hi"), Message("assistant", "yes"))
    (text,), _ = texts_of([Example(said)], Tuning({}, learning_rate=0.1, epochs=1), tokenizer, 100)
    shown = prompt_ids(tokenizer, Request(Sampling(1), messages=said[:1]))
    assert tokenizer.decode(shown).endswith("[THINK]\n\n[/THINK]")
    assert list(text.ids[: len(shown)]) == shown
    assert "yes" in tokenizer.decode(text.ids[len(shown) :])

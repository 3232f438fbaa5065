"""The tokens of prompts, counted without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from hybrid.backends.chat_templates import chat_template_of
from hybrid.backends.prompts import prompt_ids
from hybrid.plan.counting import Counting, Estimate, PromptTokens, TokenCounter, counter_of
from hybrid.plan.light_tokenizer import light_tokenizer
from hybrid.records import Message, Request, Sampling
from tests.conftest import Hybrid

HOW = Sampling(8)


def asked(text: str) -> Request:
    return Request(HOW, (Message("user", text),), template={"date_string": "26 Jul 2024"})


def counted(counter: TokenCounter, requests: Iterable[Request], times: int = 1, *, whole: bool = False) -> PromptTokens:
    counting = Counting(counter, all_of_them=whole)
    for request in requests:
        counting.add(request, times)
    return counting.found()


HOSTILE = [
    "1234 567 8",
    "don't  stop\n\n\n now",
    "naïve — 数字 🙂",
    "<|im_start|>system\nx<|im_end|>",
    "\ttabs\r\nand  ",
]


def test_tokens_are_those_of_the_model_that_answers(hybrid: Hybrid, smollm2_gguf: Path, tmp_path: Path) -> None:
    """Prompt tokens of every record, and with a fixed length the tokens of all answers."""
    out = tmp_path / "outputs.json"
    settings = ("--set", "max_tokens=2", "--limit", "2", "--set", "questions=2")
    assert hybrid("run", "local", "qa-eval", *settings, "--folder", str(tmp_path / "f"), "-o", str(out)).code == 0
    records = json.loads(out.read_text())["records"]
    plan = json.loads(hybrid("plan", "qa-eval", *settings, "--gpu", "t4", "--json").stdout)
    assert plan["items"] == len(records) == 4
    assert plan["prompt_tokens"] == sum(one["tokens"][0] for one in records)
    assert plan["most_new_tokens"] == sum(one["tokens"][1] for one in records) == 8
    assert plan["stages"][0]["exact"] is True


@pytest.mark.slow
def test_texts_are_cut_into_tokens_as_hugging_faces_tokenizer_cuts_them(
    smollm2_gguf: Path, smollm2_folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_folder)
    for ours in (light_tokenizer(smollm2_gguf), light_tokenizer(smollm2_folder)):
        for text in HOSTILE:
            assert ours(text).input_ids == theirs(text).input_ids, text
            assert prompt_ids(ours, asked(text)) == prompt_ids(theirs, asked(text)), text
        assert chat_template_of(ours, "x") == chat_template_of(theirs, "x")


def test_a_model_that_is_not_here_is_estimated_and_it_is_said() -> None:
    counter = counter_of("nobody/nothing-1b")
    found = counted(counter, [asked("word " * 100)], 3)
    assert not found.exact
    assert "estimated" in found.how
    assert "nobody/nothing-1b" in found.how
    assert 300 <= found.total <= 600


def test_of_very_many_prompts_a_sample_is_counted_and_all_when_asked(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid.plan.counting.COUNTED", 2000)
    counter = counter_of(str(smollm2_gguf))
    requests = [asked(f"Question {n}: " + "how far is it to the sea? " * (n % 7)) for n in range(200)]
    some, every = (counted(counter, requests, 3, whole=whole) for whole in (False, True))
    assert every.exact
    assert not some.exact
    assert "13 of 200 prompts" in some.how  # one of each 16: together they have 18,000 characters
    assert abs(some.total / every.total - 1) < 0.1
    assert (
        every.longest <= some.longest < 1.5 * every.longest
    )  # a bound: what a chat adds is counted with the characters
    assert every.total == 3 * sum(counter.tokens(one) for one in requests)


def test_of_very_many_short_prompts_a_sample_is_counted_too(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many characters of short prompts take longer to tokenize, and more memory to keep."""
    monkeypatch.setattr("hybrid.plan.counting.KEPT", 10)
    counter = counter_of(str(smollm2_gguf))
    ten, more = (counted(counter, [asked(f"{n % 10}") for n in range(count)]) for count in (10, 25))
    assert ten.exact
    assert "6 of 25 prompts" in more.how
    assert more.total / 25 == ten.total / 10


def test_the_sample_is_of_all_arms_that_are_asked_in_turn(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every n-th prompt would be one of the same arm."""
    monkeypatch.setattr("hybrid.plan.counting.COUNTED", 20_000)
    counter, long = counter_of(str(smollm2_gguf)), "Answer in one short sentence. " * 12
    arms = [asked(f"{long if n % 4 == 0 else ''}{n}?") for n in range(1200)]
    some, every = (counted(counter, arms, whole=whole) for whole in (False, True))
    assert not some.exact
    assert abs(some.total / every.total - 1) < 0.05


def test_one_prompt_at_least_is_in_the_sample(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.plan.counting.COUNTED", 100)
    counter = counter_of(str(smollm2_gguf))
    found = counted(counter, [asked("how far is it to the sea? " * 100) for _ in range(3)])
    assert found.total == pytest.approx(3 * counter.tokens(asked("how far is it to the sea? " * 100)), rel=0.05)


def test_a_template_that_runs_away_from_its_sandbox_is_not_obeyed(tmp_path: Path, tiny_llama: Path) -> None:
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    counter = counter_of(str(tmp_path))
    assert isinstance(counter, Estimate) or counter.tokens(asked("hello")) == 0

"""The tokens that a model sees, when both the tokenizer and the template add the beginning-of-text token."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.prompts import BadRequest, check, token_ids
from hybrid.records import Message, Request, Sampling
from hybrid.testing import impossible_requests

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(tiny_llama)


def chat(**template: str) -> Request:
    return Request(Sampling(4), messages=(Message("user", "Hi"),), template=template)


def test_a_chat_starts_with_exactly_one_beginning_of_text(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert tokenizer(text).input_ids[:2] == [0, 0], "the trap is there: template and tokenizer both write one"
    ids = token_ids(tokenizer, chat(), 256)
    assert ids[0] == 0
    assert ids.count(0) == 1


@pytest.mark.parametrize("prompt", ["Hi", "<s>Hi", "<s><s>Hi"])
def test_a_raw_prompt_starts_with_exactly_one_beginning_of_text(tokenizer: Any, prompt: str) -> None:
    assert token_ids(tokenizer, Request(Sampling(4), prompt=prompt), 256) == tokenizer("Hi").input_ids


def test_a_template_without_beginning_of_text_gets_one(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert token_ids(tokenizer, chat(), 256) == tokenizer("Hi").input_ids


def test_the_date_of_a_chat_is_pinned(tokenizer: Any) -> None:
    seen = tokenizer.decode(token_ids(tokenizer, chat(date_string="26 Jul 2024"), 256), skip_special_tokens=True)
    assert seen == "Today is 26 Jul 2024. user: Hi assistant:"


def test_a_prompt_fits_to_the_last_token_and_no_further(tokenizer: Any) -> None:
    length = len(token_ids(tokenizer, chat(), 256))
    assert len(token_ids(tokenizer, chat(), length + 4)) == length
    with pytest.raises(
        BadRequest, match=f"has {length} tokens, but only {length - 1} fit: context {length + 3}"
    ) as caught:
        token_ids(tokenizer, chat(), length + 3)
    assert caught.value.failure.kind == "too-long"


@pytest.mark.parametrize("request_", impossible_requests(), ids=lambda request: request.key)
def test_an_impossible_request_is_refused_with_its_reason(request_: Request) -> None:
    with pytest.raises(BadRequest) as caught:
        check(request_)
    assert caught.value.failure.kind == "bad-request"
    assert caught.value.failure.message


def test_a_template_that_refuses_is_the_requests_failure(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no system here') }}")
    with pytest.raises(BadRequest, match="no system here"):
        token_ids(tokenizer, chat(), 256)


def test_a_model_without_a_template_is_not_asked_in_a_made_up_one(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(BadRequest, match="no chat template"):
        token_ids(tokenizer, chat(), 256)

"""Training examples have exactly the tokens of prompts and generated answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.backends.prompts import BadRequest, prompt_ids
from hybrid.backends.tuned.examples import texts_of
from hybrid.records import Example, Message, Request, Sampling
from hybrid.training.jobs import Tokens
from hybrid.tuning import Tuning
from tests.support.small_hf_model import CHATML, chat, chatml, headers, made, tuning, turns

CLEAN = tuning({})
SEAL = tuning({}, texts="seal", padding="seal", learned="all")
PINNED = {"date_string": "26 Jul 2024"}
LONG = 10_000
MARKS = ("<|im_end|>", "<|im_start|>")


def texts(examples: list[Example], tokenizer: Any, how: Tuning = CLEAN, context: int = LONG) -> tuple[Tokens, ...]:
    return texts_of(examples, how, tokenizer, context)[0]


def asked(example: Example, tokenizer: Any) -> list[int]:
    """The prompt of a request with the example's question."""
    return prompt_ids(tokenizer, Request(Sampling(1), messages=example.messages[:-1], template=example.template))


def split(text: Tokens) -> tuple[list[int], list[int]]:
    """The tokens of a training text before its first label, and from it on."""
    first = text.learned.index(True)
    assert all(text.learned[first:])
    return list(text.ids[:first]), list(text.ids[first:])


@pytest.mark.parametrize("tokenizer", [chatml(), headers()], ids=["chatml", "headers"])
@pytest.mark.parametrize("contents", [("Say a.", "a a"), ("Say a.", "a", "And é?", "é\n[[1 2]\n [3 4]]")])
def test_what_is_shown_is_the_prompt_that_asking_makes(tokenizer: Any, contents: tuple[str, ...]) -> None:
    example = chat(*contents, template=PINNED)
    (text,) = texts([example], tokenizer)
    shown, answer = split(text)
    assert shown == asked(example, tokenizer)
    assert tokenizer.decode(answer) == contents[-1] + tokenizer.eos_token
    assert answer[-1] == tokenizer.eos_token_id


def test_nothing_is_learned_behind_the_token_that_ends_an_answer() -> None:
    tokenizer = chatml()
    whole = tokenizer.apply_chat_template([{"role": "assistant", "content": "a"}], tokenize=False)
    assert whole.endswith("<|im_end|>\n")  # what stands there when a chat goes on
    (text,) = texts([chat("Say a.", "a")], tokenizer)
    assert text.ids[-1] == tokenizer.eos_token_id


def test_an_answer_is_closed_with_what_ends_generation_where_the_template_writes_it_between_turns_only() -> None:
    written = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    opening = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    tokenizer = made(("<|eos|>", "<|user|>", "<|assistant|>"), written + opening)
    (text,) = texts([chat("Say a.", "a")], tokenizer)
    assert tokenizer.decode(split(text)[1]) == "a<|user|>"


def test_a_example_has_its_system_message_where_a_request_has_it() -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer = made(MARKS, refuses + CHATML)
    (merged,) = texts([Example(messages=(Message("system", "Be brief."), *turns("Say a.", "a")))], tokenizer)
    (written,) = texts([chat("Be brief.\n\nSay a.", "a")], tokenizer)
    assert merged == written


def test_all_tokens_or_those_of_the_answer_are_learned() -> None:
    example = chat("Say a.", "a")
    (answer,), (everything,) = (texts([example], chatml(), tuning({}, learned=which)) for which in ("answer", "all"))
    assert answer.ids == everything.ids
    assert answer.labelled == 2  # the letter and the end token
    assert everything.labelled == len(everything.ids) - 1  # nothing comes before the first


def test_a_text_begins_with_one_begin_token() -> None:
    tokenizer = headers()
    begin = tokenizer.bos_token_id
    chatted, raw, started = texts(
        [chat("Say a.", "a", template=PINNED), Example(text="abc"), Example(text="<|begin_of_text|>abc")], tokenizer
    )
    for text in (chatted, raw, started):
        assert text.ids[0] == begin
        assert text.ids.count(begin) == 1
    assert raw.ids == started.ids
    assert raw.ids[-1] == tokenizer.eos_token_id
    assert raw.labelled == 4  # abc and the end


def test_the_published_texts_have_two_begin_tokens_and_an_empty_turn_at_the_end() -> None:
    tokenizer, example = headers(), chat("Say a.", "a", template=PINNED)
    (clean,), (seal,) = (texts([example], tokenizer, tuning({}, texts=how)) for how in ("clean", "seal"))
    turn = tokenizer("<|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False).input_ids
    assert seal.ids == (tokenizer.bos_token_id, *clean.ids, *turn)
    assert seal.learned == (False, *clean.learned, *[True] * len(turn))
    whole = tokenizer.apply_chat_template(
        [{"role": one.role, "content": one.content} for one in example.messages],
        tokenize=False,
        add_generation_prompt=True,
        **PINNED,
    )
    assert list(seal.ids) == tokenizer(whole).input_ids  # with the begin tokens of template and tokenizer, as SEAL


def test_the_published_texts_of_a_model_without_a_begin_token_have_none() -> None:
    (text,) = texts([chat("Say a.", "a")], chatml(), tuning({}, texts="seal"))
    assert chatml().decode(text.ids) == (
        "<|im_start|>user\nSay a.<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_date_of_a_template_is_pinned_by_the_example() -> None:
    tokenizer = headers()
    (pinned,), (other,) = (
        texts([chat("Say a.", "a", template={"date_string": date})], tokenizer) for date in ("26 Jul 2024", "1 Jan")
    )
    assert "Today Date: 26 Jul 2024\n" in tokenizer.decode(pinned.ids)
    assert "Today Date: 1 Jan\n" in tokenizer.decode(other.ids)
    assert split(pinned)[1] == split(other)[1]


def test_padding_is_left_out_or_learned_as_published() -> None:
    examples = [chat("Say a.", "a"), chat("Say b.", "b and much more of it")]
    plain, seal = texts(examples, chatml()), texts(examples, chatml(), tuning({}, padding="seal"))
    assert [text.padding for text in plain] == [0, 0]
    longest = len(plain[1].ids)
    assert [len(text.ids) for text in seal] == [longest] * 2
    more = longest - len(plain[0].ids)
    assert seal[0] == Tokens((*plain[0].ids, *[0] * more), (*plain[0].learned, *[True] * more), more)
    assert seal[1] == plain[1]


def test_a_tokenizer_without_padding_pads_with_its_end_token() -> None:
    examples = [chat("Say a.", word, template=PINNED) for word in ("a", "and more")]
    (short, _) = texts(examples, headers(), SEAL)
    assert short.padding == 7
    assert set(short.ids[-7:]) == {headers().eos_token_id}


def test_a_tokenizer_that_can_pad_with_nothing_is_an_error_of_the_examples() -> None:
    with pytest.raises(BadRequest, match="no token to pad with"):
        texts([chat("a", "b"), chat("a", "bcd")], made(MARKS, CHATML, ends=False), SEAL)


def test_examples_that_are_too_long_are_left_out_and_counted() -> None:
    examples = [chat("Say a.", "a" * size) for size in (1, 50, 2)]
    sizes = [len(text.ids) for text in texts(examples, chatml())]
    found, left_out = texts_of(examples, CLEAN, chatml(), sizes[2])
    assert [len(text.ids) for text in found] == [sizes[0], sizes[2]]
    assert left_out == 1
    turn = len(chatml()("\n<|im_start|>assistant\n").input_ids)
    padded, left_out = texts_of(examples, SEAL, chatml(), sizes[2] + turn)
    assert left_out == 1
    assert {len(text.ids) for text in padded} == {sizes[2] + turn}  # of those that are kept
    assert texts_of(examples, CLEAN, chatml(), 3) == ((), 3)


def test_a_template_that_refuses_is_an_error_that_tells_what_it_said() -> None:
    picky = made(MARKS, "{{ raise_exception('no systems here') }}")
    with pytest.raises(BadRequest, match="no systems here"):
        texts([chat("a", "b")], picky)
    after = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('users last') }}{% endif %}" + CHATML
    with pytest.raises(BadRequest, match="users last") as caught:
        texts([chat("a", "b")], made(MARKS, after))
    assert caught.value.failure.kind == "bad-example"


def test_a_template_that_writes_a_past_answer_otherwise_is_refused() -> None:
    thinking = CHATML.replace("assistant\n", "assistant\n<think>")
    assert thinking != CHATML
    with pytest.raises(BadRequest, match="in another way"):
        texts([chat("a", "b")], made(MARKS, thinking))


def test_a_model_without_a_template_learns_texts_alone() -> None:
    bare = made(["<|im_end|>"], None)
    (text,) = texts([Example(text="abc")], bare)
    assert bare.decode(text.ids) == "abc<|im_end|>"
    with pytest.raises(BadRequest, match="no chat template"):
        texts([chat("a", "b")], bare)


@pytest.mark.parametrize(
    ("example", "why"),
    [
        (Example(), "one of the two"),
        (Example(turns("a", "b"), "c"), "one of the two"),
        (Example((Message("user", "a"),)), "the last message"),
        (Example((Message("assistant", "a"), Message("user", "b"))), "the last message"),
        (replace(chat("a", "b"), template={"messages": "x"}), "multiple values"),
        (chat("a", "half a character: \ud83d"), "surrogates"),
        (chat("half a character: \ud83d", "a"), "surrogates"),
        (Example(text="half a character: \ud83d"), "surrogates"),
    ],
)
def test_a_example_that_is_none_is_refused(example: Example, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        texts([example], chatml())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_models_texts_are_its_prompts_and_its_answers(smollm2_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder)
    example = chat("What is\n[[1 2]\n [3 4]]?", "[[5 6]\n [7 8]]")
    (text,) = texts([example], tokenizer)
    shown, answer = split(text)
    assert shown == asked(example, tokenizer)
    assert tokenizer.decode(answer) == "[[5 6]\n [7 8]]<|im_end|>"
    assert tokenizer.decode(shown).count("<|im_start|>") == 3  # its template adds a system turn

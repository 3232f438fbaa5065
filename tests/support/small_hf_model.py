"""Hugging Face folders of random two-layer models, with byte tokenizers and chat templates of real models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hybrid.canonical import Json
from hybrid.records import Example, Message, Request, Sampling
from hybrid.tuning import Tuning

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As SmolLM2's and Qwen's: no begin token, and a line break behind an answer that nobody generates."""

HEADERS = (
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|eot_id|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""As Llama 3.2's: begin token, a date in the system turn, answers trimmed."""

TARGETS = ("q_proj", "v_proj", "down_proj")


def chatml() -> PreTrainedTokenizerFast:
    """A tokenizer without a begin token; it pads with its end token, as SmolLM2's."""
    return made(("<|im_end|>", "<|im_start|>"), CHATML, pads=True)


def headers() -> PreTrainedTokenizerFast:
    """A tokenizer that starts every text with its begin token, and has no padding, as Llama 3.2's."""
    marks = ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
    return made(marks, HEADERS, begin=marks[1])


def made(
    marks: Sequence[str], template: str | None, *, begin: str = "", ends: bool = True, pads: bool = False
) -> PreTrainedTokenizerFast:
    """Bytes and `marks`, the first of which is token 0 and ends an answer."""
    words = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    pieces.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    if begin:
        start = [(begin, words.index(begin))]
        pieces.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=start)
    kinds = {"bos_token": begin, "eos_token": marks[0] if ends else "", "pad_token": marks[0] if pads else ""}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **{kind: mark for kind, mark in kinds.items() if mark})
    tokenizer.chat_template = template
    return tokenizer


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, context: int = 512, width: int = 32) -> Path:
    """A folder as Hugging Face's library loads it."""
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tuning(examples: Mapping[str, Json], **how: Any) -> Tuning:
    """A quick training that changes what is said."""
    settings = {"learning_rate": 1e-2, "epochs": 2, "rank": 4, "alpha": 16.0, "targets": TARGETS, "warmup": 0, **how}
    return Tuning(examples, **settings)


def chat(*contents: str, template: Mapping[str, str] | None = None) -> Example:
    """User and assistant in turns."""
    return Example(turns(*contents), template=template or {})


def turns(*contents: str) -> tuple[Message, ...]:
    """User and assistant in turns."""
    return tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(contents))


def ask(text: str, key: str = "", **more: Any) -> Request:
    """A greedy question with a short answer."""
    sampling = Sampling(max_tokens=more.pop("max_tokens", 12))
    return Request(sampling, messages=turns(text), key=key or text, **more)


def of_words(wanted: Mapping[str, Json]) -> list[Example]:
    """The examples that `{"words": [...]}` asks for; `{"refused": ...}` has one that no template takes."""
    if "refused" in wanted:
        return [Example((Message("user", "a"), Message("user", "b")))]
    return [chat(f"Say {word}.", f"{word} and {word}") for word in wanted["words"]]  # type: ignore[union-attr]

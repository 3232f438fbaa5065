"""Tokenize training examples, and mark the tokens that have a loss.

The text before the model's turn is tokenized exactly as the prompt of a request (`prompts.py`), so that training and
inference see the same tokens. The answer is tokenized separately, as when it is generated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hybrid.backends.chat_templates import ChatTemplate, chat_template_of
from hybrid.backends.prompts import BadRequest, prompt_ids, refuse_half_characters, render_chat
from hybrid.records import Example, Message, Request, Sampling
from hybrid.thoughts import without_empty
from hybrid.training.jobs import Tokens
from hybrid.tuning import Tuning


def texts_of(
    examples: Iterable[Example], tuning: Tuning, tokenizer: Any, context: int
) -> tuple[tuple[Tokens, ...], int]:
    """The texts of a training, and how many examples were left out because they are longer than `context` tokens.

    Raises BadRequest for an example that the model's template refuses, or padding without a token for it.
    """
    form = chat_template_of(tokenizer, "")
    made = [_tokens(_fitted(example, form), tuning, tokenizer, form) for example in examples]
    kept = [text for text in made if len(text.ids) <= context]
    if tuning.padding == "seal" and kept:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise BadRequest("bad-example", "this model's tokenizer has no token to pad with: padding=masked")
        longest = max(len(text.ids) for text in kept)
        kept = [_padded(text, longest, pad) for text in kept]
    return tuple(kept), len(made) - len(kept)


def _fitted(example: Example, form: ChatTemplate) -> Example:
    """The example with the messages fitted to the chat template, as those of a request are."""
    return replace(example, messages=form.fit_messages(example.messages)) if example.messages else example


def _tokens(example: Example, tuning: Tuning, tokenizer: Any, form: ChatTemplate) -> Tokens:
    if bool(example.messages) == bool(example.text) or (example.prompt and not example.text):
        raise BadRequest("bad-example", "an example needs messages or a text, one of the two")
    refuse_half_characters(
        [example.prompt, example.text, *(message.content for message in example.messages)], "example"
    )
    if example.text:
        return _raw_tokens(example, tuning, tokenizer)
    if example.messages[-1].role != "assistant":
        raise BadRequest("bad-example", "the last message of an example is the model's")
    shown = prompt_ids(tokenizer, Request(Sampling(1), messages=example.messages[:-1], template=example.template))
    answer = _answer_ids(example, tuning, tokenizer)
    if tuning.texts != "seal" and form.ends.isdisjoint(answer):  # the template ends a turn only before the next one
        answer += form.ends
    if tuning.texts == "seal" and tokenizer.bos_token_id is not None and shown[:1] == [tokenizer.bos_token_id]:
        shown = [tokenizer.bos_token_id, *shown]
    learned = [tuning.learned == "all"] * len(shown) + [True] * len(answer)
    return Tokens((*shown, *answer), tuple(learned))


def _raw_tokens(example: Example, tuning: Tuning, tokenizer: Any) -> Tokens:
    """A raw text and the end token. What follows a prompt is tokenized separately, as when it is generated."""
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if not example.prompt:
        ids = [*prompt_ids(tokenizer, Request(Sampling(1), prompt=example.text)), *ends]
        return Tokens(tuple(ids), (True,) * len(ids))
    shown = prompt_ids(tokenizer, Request(Sampling(1), prompt=example.prompt))
    answer = [*tokenizer(example.text, add_special_tokens=False).input_ids, *ends]
    return Tokens((*shown, *answer), (*[tuning.learned == "all"] * len(shown), *[True] * len(answer)))


def _answer_ids(example: Example, tuning: Tuning, tokenizer: Any) -> list[int]:
    """The tokens of the last message and its end marker. `texts=seal` opens another, empty turn after it."""
    before = _render_chat(tokenizer, example.messages[:-1], example, open_turn=True)
    whole = _render_chat(tokenizer, example.messages, example, open_turn=tuning.texts == "seal")
    if not whole.startswith(before):  # some templates omit the empty thought of a finished answer
        before = without_empty(before)
    if not whole.startswith(before):
        raise BadRequest("bad-example", "this model's chat template writes a finished answer in another way")
    rest = whole[len(before) :]
    return list(tokenizer(rest if tuning.texts == "seal" else rest.rstrip(), add_special_tokens=False).input_ids)


def _render_chat(tokenizer: Any, messages: tuple[Message, ...], example: Example, *, open_turn: bool) -> str:
    try:
        return render_chat(tokenizer, messages, example.template, open_turn=open_turn)
    except Exception as error:  # templates are programs of the model's author and raise whatever they like
        raise BadRequest("bad-example", f"the example cannot be written: {type(error).__name__}: {error}") from error


def _padded(text: Tokens, longest: int, pad: int) -> Tokens:
    """SEAL's padding: every text of a task is padded to the longest, and the padding tokens have a loss."""
    more = longest - len(text.ids)
    return Tokens((*text.ids, *[pad] * more), (*text.learned, *[True] * more), more)

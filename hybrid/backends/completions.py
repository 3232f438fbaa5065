"""From an engine's output to a completion: the thought is separated, and a thought without an answer is a failure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from hybrid import thoughts
from hybrid.records import Completion, Request, unanswered


def separate_thought(request: Request, completion: Completion, opened: str = "") -> Completion:
    """`completion` with its thought separated from its text. `opened`: the mark with which the prompt opened a thought.

    A JSON schema is enforced from the first token on, so with a schema the whole text is the answer.
    """
    if completion.text is None or completion.thought or request.schema is not None:
        return completion
    thought, text = thoughts.split(completion.text, opened)
    if text is None:
        return replace(completion, text=None, thought=thought, error=unanswered(thought))
    return replace(completion, text=text, thought=thought) if thought else completion


def encodable(text: str) -> str:
    """`text` with unpaired surrogates, which JSON can hold and UTF-8 cannot, replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Detokenizer:
    """Tokens to text, without special tokens except those that mark a thought, such as Magistral's [THINK]."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = {number: str(one) for number, one in tokenizer.added_tokens_decoder.items() if one.special}
        mark_words = thoughts.TOKENS | (thoughts.CHANNEL_TOKENS if "<|channel|>" in special.values() else frozenset())
        self._special = special.keys() | set(tokenizer.all_special_ids)
        self._marks = frozenset(number for number, word in special.items() if word in mark_words)

    def has_thought_mark(self, tokens: Collection[int]) -> bool:
        """Whether `tokens` hold a special token that marks a thought."""
        return not self._marks.isdisjoint(tokens)

    def text(self, tokens: list[int]) -> str:
        """The text of `tokens`."""
        kept = self.has_thought_mark(tokens)
        if kept:
            tokens = [one for one in tokens if one in self._marks or one not in self._special]
        spaces = {"clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(tokens, skip_special_tokens=not kept, **spaces))

    def completion(self, tokens: list[int], ends: Collection[int], stops: Sequence[str]) -> str:
        """The text of a completion: without an end token behind it, and up to the first of the stop strings."""
        text = self.text(tokens[:-1] if tokens[-1] in ends else tokens)
        return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]

    def open_thought(self, prompt: list[int]) -> str:
        """The mark of the thought that the prompt opens and does not close; "" when there is none."""
        return thoughts.opened_by(str(self._tokenizer.decode(prompt[-TAIL:], skip_special_tokens=False)))


TAIL = 24
"""Tokens at the end of a prompt that are searched for an opening mark."""

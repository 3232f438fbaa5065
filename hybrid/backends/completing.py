"""From what an engine wrote to a completion: the thought set apart, and no answer where only a thought came."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hybrid import thoughts
from hybrid.records import Completion, Request, unanswered


def completed(request: Request, written: Completion, opened: str = "") -> Completion:
    """`written` with the thought apart from its text; `opened` is the mark by which the prompt has opened a thought.

    A schema holds from the first token on, so there the text is the answer, whatever the prompt has opened.
    """
    if written.text is None or written.thought or request.schema is not None:
        return written
    thought, text = thoughts.split(written.text, opened)
    if text is None:
        return replace(written, text=None, thought=thought, error=unanswered(thought))
    return replace(written, text=text, thought=thought) if thought else written


class Voice:
    """Tokens to texts, without special tokens but for those that mark a thought: Magistral's [THINK] is one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = {number: str(one) for number, one in tokenizer.added_tokens_decoder.items() if one.special}
        words = thoughts.TOKENS | (thoughts.CHANNEL_TOKENS if "<|channel|>" in special.values() else frozenset())
        self._special = special.keys() | set(tokenizer.all_special_ids)
        self._marks = frozenset(number for number, word in special.items() if word in words)

    def marks(self, tokens: Collection[int]) -> bool:
        """Whether a mark is among `tokens` that a text without special tokens would lack."""
        return not self._marks.isdisjoint(tokens)

    def text(self, tokens: list[int]) -> str:
        """What `tokens` say."""
        kept = self.marks(tokens)
        if kept:
            tokens = [one for one in tokens if one in self._marks or one not in self._special]
        spaces = {"clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(tokens, skip_special_tokens=not kept, **spaces))

    def opened(self, prompt: list[int]) -> str:
        """The mark of the thought that the prompt leaves open; "" when there is none."""
        return thoughts.opened_by(str(self._tokenizer.decode(prompt[-TAIL:], skip_special_tokens=False)))


TAIL = 24
"""Tokens at the end of a prompt in which an opening mark would be."""

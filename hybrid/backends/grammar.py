"""Answers constrained to a JSON schema with llguidance: tokens that cannot lead to a valid text are masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import llguidance.hf
import torch
from llguidance import LLMatcher

from hybrid.backends.prompts import BadRequest

BIT_INDEXES = torch.arange(8)


class GrammarCompiler:
    """Grammars for one tokenizer. `vocabulary` is the width of the logits, `ends` are the tokens that end an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> None:
        self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(ends) or None)
        self._vocabulary = vocabulary

    def start(self, schema: Mapping[str, Any]) -> Grammar:
        """A grammar in its initial state.

        Raises BadRequest (kind `bad-schema`) for a schema that cannot be enforced.
        """
        try:
            matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
        except (ValueError, TypeError, RuntimeError) as error:
            raise BadRequest("bad-schema", f"the schema cannot be enforced: {error!s:.200}") from error
        if matcher.is_error():
            raise BadRequest("bad-schema", f"the schema cannot be enforced: {matcher.get_error():.200}")
        return Grammar(matcher, self._vocabulary)


class Grammar:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def forbidden(self, device: torch.device) -> torch.Tensor:
        """A mask [vocabulary] of the tokens that may not come next."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = ((packed[:, None] >> BIT_INDEXES) & 1).flatten()[: self._vocabulary].bool()
        return ~allowed.to(device)

    def accept(self, token: int) -> None:
        """Advance the state by `token`."""
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether the text is complete and no token may follow."""
        return bool(self._matcher.is_stopped())

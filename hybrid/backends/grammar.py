"""Answers held to a JSON schema, token by token, with llguidance: what cannot go on to a fitting text is not drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import llguidance.hf
import torch
from llguidance import LLMatcher

from hybrid.backends.prompts import BadRequest

BITS = torch.arange(8)


class Grammars:
    """The grammars of one tokenizer. `vocabulary` is the width of the logits, `ends` the tokens that end an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> None:
        self._tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=sorted(ends) or None)
        self._vocabulary = vocabulary

    def follow(self, schema: Mapping[str, Any]) -> Grammar:
        """A grammar at its beginning. Raises BadRequest (kind `bad-schema`) for a schema that cannot be held to."""
        try:
            matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
        except (ValueError, TypeError, RuntimeError) as error:
            raise BadRequest("bad-schema", f"the schema cannot be held to: {error!s:.200}") from error
        if matcher.is_error():
            raise BadRequest("bad-schema", f"the schema cannot be held to: {matcher.get_error():.200}")
        return Grammar(matcher, self._vocabulary)


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def refused(self, device: torch.device) -> torch.Tensor:
        """Which tokens may not come next [vocabulary]."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = ((packed[:, None] >> BITS) & 1).flatten()[: self._vocabulary].bool()
        return ~allowed.to(device)

    def accept(self, token: int) -> None:
        """The answer went on with `token`."""
        self._matcher.consume_token(token)

    @property
    def over(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        return bool(self._matcher.is_stopped())

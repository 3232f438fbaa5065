"""The tokens of prompts: exact with the model's own tokenizer where it is here, else estimated, and it says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hybrid.backends.chat_templates import ChatTemplate, chat_template_of
from hybrid.backends.prompts import BadRequest, prompt_ids
from hybrid.errors import CannotRun
from hybrid.items import Request
from hybrid.machine.files import expanded
from hybrid.model_files.location import PACKAGED, locate
from hybrid.plan.light_tokenizer import LightTokenizer, light_tokenizer
from hybrid.plan.shapes import is_hub_name

CHARACTERS = 3.2
"""Characters of a token in English texts and in tables of digits, rather too few: an estimate should not be low."""
OF_A_CHAT, OF_A_MESSAGE = 8, 6
"""Tokens that a chat template writes beside what is said."""
COUNTED = 400_000
"""Characters that are tokenized; of longer prompts together a sample is, and the rest follows by characters."""


class TokenCounter(Protocol):
    """Counts the tokens of a request's prompt."""

    @property
    def how(self) -> str:
        """How it counts, for people."""
        ...

    def tokens(self, request: Request) -> int:
        """The tokens of the prompt as the model sees it."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """By the number of characters. `why` the model's own tokenizer does not count."""

    why: str

    @property
    def how(self) -> str:
        return f"estimated at {CHARACTERS} characters a token: {self.why}"

    def tokens(self, request: Request) -> int:
        chat = OF_A_CHAT + OF_A_MESSAGE * len(request.messages) if request.messages else 0
        return int(characters(request) / CHARACTERS) + chat + 1


@dataclass(frozen=True, slots=True)
class Exact:
    """By the model's own tokenizer and chat template."""

    tokenizer: LightTokenizer
    template: ChatTemplate
    how: str = "counted with the model's own tokenizer"

    def tokens(self, request: Request) -> int:
        try:
            return len(prompt_ids(self.tokenizer, self.template.fit(request)))
        except (BadRequest, CannotRun):  # it will be a failure, or the run does not begin
            return 0


def counter_of(model: str) -> TokenCounter:
    """The counter for a model's prompts. Raises nothing."""
    if model not in PACKAGED and (is_hub_name(model) or not expanded(model).exists()):
        return Estimate(f"the files of {model:.80} are not here")
    try:
        tokenizer = light_tokenizer(locate(model))
        return Exact(tokenizer, chat_template_of(tokenizer, model))
    except CannotRun as error:
        return Estimate(error.message[:200])


def characters(request: Request) -> int:
    """The characters of a request's prompt."""
    return len(request.prompt) + sum(len(message.content) for message in request.messages)


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The tokens of many prompts, of the longest one with its completion, and how they were counted."""

    total: int
    longest: int
    exact: bool
    how: str


def counted(counter: TokenCounter, requests: Sequence[tuple[Request, int]], *, all_of_them: bool) -> PromptTokens:
    """The tokens of the prompts of `requests`, each so many times. A sample of many is every n-th one."""
    sizes = [characters(request) for request, _ in requests]
    distinct = sum(sizes)
    step = 1 if all_of_them or isinstance(counter, Estimate) else max(1, -(-distinct // COUNTED))
    known = [(counter.tokens(request), place) for place, (request, _) in enumerate(requests) if place % step == 0]
    rate = sum(tokens for tokens, _ in known) / max(1, sum(sizes[place] for _, place in known))
    of = dict.fromkeys(range(len(requests)), 0) | {place: tokens for tokens, place in known}
    if step > 1:
        of |= {place: round(size * rate) for place, size in enumerate(sizes) if place % step}
    total = sum(of[place] * times for place, (_, times) in enumerate(requests))
    longest = max((of[n] + request.sampling.max_tokens for n, (request, _) in enumerate(requests)), default=0)
    how = counter.how if step == 1 else f"{counter.how}: {len(known):,} of {len(requests):,} prompts (--exact: all)"
    return PromptTokens(total, longest, step == 1 and isinstance(counter, Exact), how)

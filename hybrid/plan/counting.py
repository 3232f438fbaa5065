"""The tokens of prompts: exact with the model's own tokenizer where it is here, else estimated, and it says which."""

from __future__ import annotations

import zlib
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
KEPT = 20_000
"""Prompts that are tokenized: as many of very short ones take seconds."""


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


class Counting:
    """Counts the tokens of prompts that come one after another; the memory that it takes does not grow with them.

    Of many a sample is tokenized: one of each n that follow each other, where n doubles whenever those that came are
    twice as long. Which one is a matter of a hash: where a pipeline asks its arms in turn, every n-th is of one arm.
    """

    def __init__(self, counter: TokenCounter, *, all_of_them: bool) -> None:
        self._counter = counter
        self._at_once = all_of_them or isinstance(counter, Estimate)
        self._seen = self._characters = self._total = self._longest = 0
        self._halvings = 0  # n is 2 to the power of it
        self._sample: list[tuple[int, Request, int]] = []  # place, prompt, how often it is asked
        self._rest = 0  # characters of the prompts that are not in the sample, each as often as it is asked
        self._rest_longest: dict[int, int] = {}  # bound of an answer -> characters of the longest of these prompts

    def add(self, request: Request, times: int) -> None:
        """Another prompt, asked so many times."""
        place, self._seen = self._seen, self._seen + 1
        if self._at_once:
            self._add_tokens(request, times)
            return
        self._characters += characters(request)
        if _is_drawn(place, self._halvings):
            self._sample.append((place, request, times))
        else:
            self._add_rest(request, times)
        while len(self._sample) > (1 if self._characters > COUNTED << self._halvings else KEPT):
            self._halve()

    def found(self) -> PromptTokens:
        """The tokens of all prompts that were added: the last that is asked for."""
        size = sum(characters(request) for _, request, _ in self._sample)
        rate = sum(self._add_tokens(request, times) for _, request, times in self._sample) / max(1, size)
        total = self._total + round(self._rest * rate)
        rest = max((round(size * rate) + new for new, size in self._rest_longest.items()), default=0)
        how = self._counter.how
        if self._halvings:
            how = f"{how}: {len(self._sample):,} of {self._seen:,} prompts (--exact: all)"
        exact = not self._halvings and isinstance(self._counter, Exact)
        return PromptTokens(total, max(self._longest, rest), exact, how)

    def _add_tokens(self, request: Request, times: int) -> int:
        tokens = self._counter.tokens(request)
        self._total += tokens * times
        self._longest = max(self._longest, tokens + request.sampling.max_tokens)
        return tokens

    def _add_rest(self, request: Request, times: int) -> None:
        size, new = characters(request), request.sampling.max_tokens
        self._rest += size * times
        self._rest_longest[new] = max(size, self._rest_longest.get(new, 0))

    def _halve(self) -> None:
        """Leave one of two out of the sample, never all."""
        self._halvings += 1
        kept: list[tuple[int, Request, int]] = []
        left: list[tuple[int, Request, int]] = []
        for one in self._sample:
            (kept if _is_drawn(one[0], self._halvings) else left).append(one)
        self._sample = kept or [left.pop()]
        for _, request, times in left:
            self._add_rest(request, times)


def _is_drawn(place: int, halvings: int) -> bool:
    """Whether a place is in a sample that was halved so often: of each two neighbours that were left, one is."""
    pairs = ((place >> level - 1, b"%d %d" % (level, place >> level)) for level in range(1, halvings + 1))
    return all(one % 2 == zlib.crc32(pair) % 2 for one, pair in pairs)

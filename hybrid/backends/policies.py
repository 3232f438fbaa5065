"""Language models that loops train and sample from: prompts and tokens here, weights in a bank, sampling beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from hybrid.backends.chat_templates import NO_TEMPLATE, ChatTemplate
from hybrid.backends.completions import Detokenizer
from hybrid.backends.policy_sampling import SlottedBank
from hybrid.backends.prompts import BadRequest, prompt_ids
from hybrid.canonical import digest
from hybrid.loops import PolicyText, Prompt, Sampled, Step
from hybrid.records import Message, Request, Sampling

VOCABULARY = ("model", "added_tokens", "normalizer", "pre_tokenizer", "decoder")
"""The parts of a tokenizer that say how a text and token ids are each other's."""
ROLES = {"system": "Instructions", "user": "Question", "assistant": "Answer"}
"""What stands before a message where a model has no chat template."""


class Bank(SlottedBank, Protocol):
    """What trains the weights of the slots, as in `hybrid.loops.Policies`."""

    def begin(self, slot: int, seed: int) -> None: ...

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> Sequence[float]: ...

    def logprobs(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> list[tuple[float, ...]]: ...

    def step(self, slot: int, learning_rate: float) -> Step: ...

    def rest(self, slot: int) -> None: ...

    def digest(self, slot: int) -> str: ...

    def adapter(self, slot: int) -> bytes: ...

    def state(self) -> bytes: ...

    def load(self, state: bytes) -> None: ...

    def close(self) -> None: ...


class Sampler(Protocol):
    """What writes completions; `name`: "" for the model that is trained, else what it is, with its version."""

    name: str
    decode_steps: int
    prefilled: int

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]: ...

    def close(self) -> None: ...


class LanguageModelPolicies:
    """`hybrid.loops.Policies` of a tokenizer, a bank and its sampler. `together`: the bank trains all slots at once.

    `ends`: the tokens that end a completion of the sampler, the first of them `end`.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: ChatTemplate,
        bank: Bank,
        sampler: Sampler,
        context: int,
        ends: Sequence[int],
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._tokenizer, self._chat_template, self._bank, self._sampler = tokenizer, chat_template, bank, sampler
        self.slots, self.together, self.context, self.end = bank.slots, bank.together, context, ends[0]
        self._ends = frozenset(ends)
        self.tokenizer, self.sampler = tokenizer_digest(tokenizer), sampler.name
        self.begin, self.step, self.rest = bank.begin, bank.step, bank.rest
        self.digest, self.adapter = bank.digest, bank.adapter
        self.state, self.load = bank.state, bank.load

    @property
    def decode_steps(self) -> int:
        """Steps of the decode loops so far: calls of the model, each for a token of all rows in flight."""
        return self._sampler.decode_steps

    @property
    def prefilled(self) -> int:
        """Prompt tokens that were computed so far."""
        return self._sampler.prefilled

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """`hybrid.loops.Policies`. Raises ValueError for messages that the chat template cannot write, too."""
        try:
            ids = tuple(prompt_ids(self._tokenizer, self._request(tuple(messages))))
        except BadRequest as error:
            raise ValueError(error.failure.message) from error
        if len(ids) >= self.context:
            raise ValueError(
                f"the prompt has {len(ids):,} tokens; the context, with the completion, is {self.context:,}"
            )
        return ids

    def close(self) -> None:
        """`hybrid.loops.Policies`."""
        self._sampler.close()
        self._bank.close()

    def _request(self, messages: tuple[Message, ...]) -> Request:
        if self._chat_template.refusal == NO_TEMPLATE and messages:
            return Request(Sampling(1), prompt=transcript(messages))
        return self._chat_template.fit(Request(Sampling(1), messages=messages))

    def encode(self, text: str) -> tuple[int, ...]:
        """`hybrid.loops.Policies`. What looks like a special token is characters, as any other text."""
        return tuple(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """`hybrid.loops.Policies`."""
        if not all(0 <= one < len(self._tokenizer) for one in ids):
            raise ValueError(f"a token is below {len(self._tokenizer):,}")
        return self._detokenizer.text(list(ids))

    def text_of(self, ids: Sequence[int], *, ended: bool) -> str:
        """`hybrid.loops.Policies`."""
        stops = self._chat_template.stops
        before, whole = self.decode(ids[:-1]), self.decode(ids)
        if not self._ends.isdisjoint(ids[:-1]) or any(stop in before for stop in stops):
            raise ValueError("a completion that goes on behind its end")
        if not ids or (ended and ids[-1] not in self._ends and not any(stop in whole for stop in stops)):
            raise ValueError("a completion without its end")
        return self._detokenizer.completion(list(ids), self._ends, stops)

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]:
        """`hybrid.loops.Policies`."""
        for one in prompts:
            length, most = len(one.ids), one.sampling.max_tokens
            if not (0 <= one.slot < self.slots and length):
                raise ValueError(f"a prompt has tokens and a slot below {self.slots}: {length} tokens, slot {one.slot}")
            if not 1 <= most <= self.context - length:
                raise ValueError(f"max_tokens {most} and {length} tokens of a prompt exceed the context {self.context}")
        return self._sampler.sample([self._stopping(one) for one in prompts])

    def _stopping(self, prompt: Prompt) -> Prompt:
        """The prompt with the texts that end a turn and are no tokens of the model as stop strings."""
        if not (stops := self._chat_template.stops):
            return prompt
        return prompt._replace(sampling=replace(prompt.sampling, stop=(*prompt.sampling.stop, *stops)))

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> tuple[float, ...]:
        """`hybrid.loops.Policies`."""
        return tuple(self._bank.backward(texts, temperature))

    def logprobs(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """`hybrid.loops.Policies`."""
        if self.together:
            return self._bank.logprobs(texts, temperature)
        found: dict[int, tuple[float, ...]] = {}
        for slot in range(self.slots):
            numbers = [number for number, one in enumerate(texts) if one.slot == slot]
            if numbers:
                of_slot = self._bank.logprobs([texts[number] for number in numbers], temperature)
                found |= dict(zip(numbers, of_slot, strict=True))
        return [found[number] for number in range(len(texts))]


def transcript(messages: Sequence[Message]) -> str:
    """The messages as a model without a chat template reads them: `Question: ...`, and `Answer:` at the end."""
    said = [f"{ROLES.get(one.role, one.role)}: {one.content.strip()}\n\n" for one in messages]
    return "".join([*said, f"{ROLES['assistant']}:"])


def tokenizer_digest(tokenizer: Any) -> str:
    """The sha256 over what makes token ids of texts: vocabulary, merges, added tokens and how texts are divided."""
    if not getattr(tokenizer, "is_fast", False):
        return digest({"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__})
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return digest({name: parts.get(name) for name in VOCABULARY})

"""Policies that are a table of logits: small enough for thousands of rounds, with exact gradients, and no torch."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Sequence

from hybrid.errors import BadData
from hybrid.loops import PolicyText, Prompt, Sampled, Step
from hybrid.records import Message
from hybrid.tuning import PolicyTuning

TOKENS = ("", "<answer>", "</answer>", "-", " ", *"0123456789")
END = 0
POSITIONS = 6
SPLIT = re.compile("|".join(re.escape(one) for one in TOKENS[1:]))


class TablePolicies:
    """For each slot and position of an answer one row of logits, whatever the prompt is. Trained with plain SGD."""

    def __init__(self, slots: int, *, context: int = 4000, together: bool = True) -> None:
        self.slots, self.context, self.together = slots, context, together
        self.sampler = ""
        self.end, self.tokenizer = END, hashlib.sha256(repr(TOKENS).encode()).hexdigest()
        self.tables = [[[0.0] * len(TOKENS) for _ in range(POSITIONS)] for _ in range(slots)]
        self.gradients = [self._zeros() for _ in range(slots)]
        self.asked: list[int] = []  # the prompts of each call of `sample`

    @staticmethod
    def _zeros() -> list[list[float]]:
        return [[0.0] * len(TOKENS) for _ in range(POSITIONS)]

    def begin(self, slot: int, seed: int) -> None:
        """Answers such as `<answer>7</answer>` are likely."""
        self.tables[slot] = self._zeros()
        for position, likely in enumerate(([1], list(range(5, 15)), [2], [END], [END], [END])):
            for token in likely:
                self.tables[slot][position][token] = 4.0

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        ids = tuple(4 for message in messages for _ in message.content)
        if len(ids) >= self.context:
            raise ValueError(f"{len(ids)} tokens")
        return ids

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(TOKENS.index(found) for found in SPLIT.findall(text))

    def decode(self, ids: Sequence[int]) -> str:
        if any(not 0 < one < len(TOKENS) for one in ids):
            raise ValueError("no such token")
        return "".join(TOKENS[one] for one in ids)

    def text_of(self, ids: Sequence[int], *, ended: bool) -> str:
        if not ids or (ids[-1] == END) != ended:
            raise ValueError("ended without its end, or cut behind it")
        return self.decode(ids[:-1] if ended else ids)

    def sample(self, prompts: Sequence[Prompt]) -> list[Sampled]:
        self.asked.append(len(prompts))
        return [self._sampled(one) for one in prompts]

    def _sampled(self, prompt: Prompt) -> Sampled:
        chance, ids, logs = random.Random(prompt.sampling.seed), list[int](), list[float]()
        heat = prompt.sampling.temperature
        for position in range(min(POSITIONS, prompt.sampling.max_tokens)):
            shares = self._softmax(prompt.slot, position, heat or 1.0)
            greedy = max(range(len(TOKENS)), key=shares.__getitem__)
            token = chance.choices(range(len(TOKENS)), shares)[0] if heat else greedy
            ids.append(token)
            logs.append(math.log(shares[token]))
            if token == END:
                break
        ended = ids[-1] == END
        return Sampled(tuple(ids), self.decode(ids[:-1] if ended else ids), ended, tuple(logs))

    def _softmax(self, slot: int, position: int, heat: float) -> list[float]:
        row = [one / heat for one in self.tables[slot][min(position, POSITIONS - 1)]]
        most = max(row)
        shares = [math.exp(one - most) for one in row]
        total = sum(shares)
        return [one / total for one in shares]

    def backward(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> tuple[float, ...]:
        losses = [0.0] * self.slots
        for text in texts:
            for position, (token, weight) in enumerate(zip(text.ids[text.start :], text.weights, strict=True)):
                shares = self._softmax(text.slot, position, temperature)
                losses[text.slot] -= weight * math.log(shares[token])
                row = self.gradients[text.slot][min(position, POSITIONS - 1)]
                for each, share in enumerate(shares):
                    row[each] += weight * (share - (each == token)) / temperature
        return tuple(losses)

    def logprobs(self, texts: Sequence[PolicyText], temperature: float = 1.0) -> list[tuple[float, ...]]:
        return [
            tuple(
                math.log(self._softmax(text.slot, position, temperature)[token])
                for position, token in enumerate(text.ids[text.start :])
            )
            for text in texts
        ]

    def step(self, slot: int, learning_rate: float) -> Step:
        found = self.gradients[slot]
        for row, moved in zip(self.tables[slot], found, strict=True):
            row[:] = [one - 1000 * learning_rate * by for one, by in zip(row, moved, strict=True)]
        self.gradients[slot] = self._zeros()
        return Step(math.sqrt(sum(one * one for row in found for one in row)), False)

    def rest(self, slot: int) -> None:
        """Plain gradient descent has nothing to forget."""

    def digest(self, slot: int) -> str:
        return hashlib.sha256(json.dumps(self.tables[slot]).encode()).hexdigest()

    def adapter(self, slot: int) -> bytes:
        return json.dumps(self.tables[slot]).encode()

    def state(self) -> bytes:
        return json.dumps(self.tables).encode()

    def load(self, state: bytes) -> None:
        try:
            tables = json.loads(state)
        except ValueError as error:
            raise BadData("not the state of tables") from error
        if len(tables) != self.slots:
            raise BadData("of another number of slots")
        self.tables = tables

    def close(self) -> None:
        pass


class TableLab:
    """A `hybrid.loops.Lab` that has policies alone."""

    device = "cpu"

    def __init__(self, *, context: int = 4000, together: bool = True) -> None:
        self.opened: list[TablePolicies] = []
        self._how = {"context": context, "together": together}

    def policies(self, slots: int, tuning: PolicyTuning) -> TablePolicies:
        self.opened.append(TablePolicies(slots, **self._how))  # type: ignore[arg-type]
        return self.opened[-1]

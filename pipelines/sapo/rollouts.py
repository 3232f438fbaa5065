"""Rollouts: the group of all answers to one question, as a node publishes it and others check it.

A segment is canonical JSON in one zstd frame: batches, each of a node and a round, of any number of rollouts. A
rollout is named by the sha256 of what is in it, so a reader names it anew and trusts no name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import zstandard

from hybrid.canonical import Json, encode
from hybrid.loops import Sampled

FORMAT = "hybrid/rollouts"
VERSION = 1
DIGITS = 5
"""Decimal digits of a shared log-probability."""
MOST_PACKED = 8 * 1024 * 1024
"""Bytes of a segment, as it is published."""
MOST_UNPACKED = 32 * 1024 * 1024

Place = tuple[int, int, int]
"""Node, round and slot of a rollout: where a node asked its question."""


class Answer(NamedTuple):
    """One answer. `ended`: its policy ended it, else it was cut.

    `ids` and `logprobs`, where they are shared: its tokens, the end token too if it ended, and the logarithm of the
    probability that its policy drew each with.
    """

    text: str
    ended: bool
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """All answers to one question. `configuration`: the digest of all that must be the same in a swarm, its run too.

    `tokenizer`: the digest of that of the ids; "" without ids. `id`: 32 hex digits of the sha256 of all the rest.
    """

    configuration: str
    node: int
    round: int
    slot: int
    task: str
    index: int
    answers: tuple[Answer, ...]
    tokenizer: str = ""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        made_of = [self.configuration, self.node, self.round, self.tokenizer, self.to_json()]
        object.__setattr__(self, "id", hashlib.sha256(encode(made_of)).hexdigest()[:32])

    @property
    def place(self) -> Place:
        return self.node, self.round, self.slot

    def to_json(self) -> dict[str, Json]:
        """Its object in a batch."""
        return {
            "slot": self.slot,
            "task": self.task,
            "index": self.index,
            "answers": [_answer_json(one) for one in self.answers],
        }


@dataclass(frozen=True, slots=True)
class Batch:
    """The rollouts of a node in a round. `step`: optimizer steps that its policy had taken."""

    configuration: str
    node: int
    round: int
    step: int
    tokenizer: str
    rollouts: tuple[Rollout, ...]


def answer_of(sampled: Sampled, *, logprobs: bool = False) -> Answer:
    """The answer that a policy wrote. `logprobs`: with the log-probabilities, rounded, for weights of importance."""
    shared = tuple(round(min(one, 0.0), DIGITS) for one in sampled.logprobs) if logprobs else ()
    return Answer(sampled.text, sampled.ended, sampled.ids, shared)


def pack(batches: Sequence[Batch]) -> bytes:
    """The bytes of a segment: the batches of one configuration, in the order given."""
    value: dict[str, Json] = {
        "format": FORMAT,
        "version": VERSION,
        "configuration": batches[0].configuration,
        "batches": [_batch_json(batch) for batch in batches],
    }
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(encode(value))


def packed(batches: Sequence[Batch], most: int = MOST_UNPACKED // 4) -> list[bytes]:
    """The batches in as many segments as they need, each of about `most` bytes at most before it is packed.

    A batch that is larger is divided. Texts of models are not larger when they are packed.
    """
    parts, size = list[list[Batch]](), most
    for batch in batches:
        for one in batch.rollouts:
            length = len(encode(one.to_json()))
            if size + length > most:
                parts, size = [*parts, []], 0
            size += length
            last = parts[-1][-1] if parts[-1] else None
            if last and (last.node, last.round) == (batch.node, batch.round):
                parts[-1][-1] = replace(last, rollouts=(*last.rollouts, one))
            else:
                parts[-1].append(replace(batch, rollouts=(one,)))
    return [pack(part) for part in parts]


def _batch_json(batch: Batch) -> dict[str, Json]:
    return {
        "node": batch.node,
        "round": batch.round,
        "step": batch.step,
        "tokenizer": batch.tokenizer,
        "rollouts": [one.to_json() for one in batch.rollouts],
    }


def _answer_json(answer: Answer) -> dict[str, Json]:
    value: dict[str, Json] = {"text": answer.text, "ended": answer.ended}
    if answer.ids:
        value["ids"] = answer.ids
    if answer.logprobs:
        value["logprobs"] = answer.logprobs
    return value

"""Segments of rollouts as they arrive: hostile until every part of them is checked.

Nothing here raises for what is in a segment. What is wrong is a `Refusal` with a kind, by which refusals are counted,
and the rest of the segment is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hybrid.canonical import decode
from hybrid.errors import BadData
from hybrid.machine.files import unpack as unpack_zstd
from pipelines.sapo.rollouts import FORMAT, MOST_PACKED, MOST_UNPACKED, VERSION, Answer, Batch, Rollout
from pipelines.sapo.streams import INDICES

MOST_REFUSALS = 1000
"""Refusals of a segment; what comes after so many is not looked at."""
LOWEST_LOGPROB = -1e4
MOST_ID = 2**24
"""Token ids are below: no vocabulary is as large."""

Question = Callable[[int, int, int], tuple[str, int]]
"""Node, round and slot to the task and index of the question that is asked there."""


class Refusal(NamedTuple):
    """Something in a segment that is not used. `kind` is a word for counting, `why` is for people."""

    kind: str
    why: str
    node: int | None = None
    round: int | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What a segment must fit. `group`: answers to a question; `slots`: most questions of a node in a round.

    `longest`: characters of an answer; `most_tokens`: ids of one. `question`: what is asked in each place; a sender
    cannot choose its questions.
    """

    configuration: str
    group: int
    nodes: int
    slots: int
    rounds: int
    tasks: tuple[str, ...]
    question: Question | None = None
    longest: int = 65_536
    most_tokens: int = 32_768


class Unpacked(NamedTuple):
    """What a segment holds."""

    batches: list[Batch]
    refused: list[Refusal]


class _Refused(Exception):
    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def unpack(data: bytes, expected: Expected, node: int | None = None) -> Unpacked:
    """The batches in the bytes of a segment, and what of it was refused. `node`: whose segment it says it is."""
    found = Unpacked([], [])
    try:
        value = _opened(data, expected)
    except _Refused as error:
        found.refused.append(Refusal(error.kind, str(error), node))
        return found
    for one in value:
        if len(found.refused) >= MOST_REFUSALS:
            break
        try:
            batch, refused = _batch(one, expected, node)
        except _Refused as error:
            found.refused.append(Refusal(error.kind, str(error), node))
            continue
        found.refused.extend(refused)
        found.batches.append(batch)
    return found


def _opened(data: bytes, expected: Expected) -> list[Any]:
    """The batches as JSON. Raises _Refused."""
    if len(data) > MOST_PACKED:
        raise _Refused("too-long", f"{len(data):,} bytes, more than the {MOST_PACKED:,} allowed")
    try:
        raw = unpack_zstd(data, MOST_UNPACKED, "a segment of rollouts")
        value = decode(raw, what="a segment of rollouts", limit=MOST_UNPACKED)
    except BadData as error:
        raise _Refused("schema", error.message) from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("batches"), list):
        raise _Refused("schema", f"not an object with format {FORMAT} and batches")
    if value.get("version") != VERSION or type(value["version"]) is not int:
        raise _Refused("version", f"version {value.get('version')!r:.40}, this hybrid reads {VERSION}")
    if value.get("configuration") != expected.configuration:
        raise _Refused("another-configuration", f"of the configuration {value.get('configuration')!r:.80}")
    return list(value["batches"])


def _batch(value: Any, expected: Expected, node: int | None) -> tuple[Batch, list[Refusal]]:
    """A batch, without the rollouts that are refused. Raises _Refused."""
    whose, number, step, tokenizer = _header(value, expected)
    if node is not None and whose != node:
        raise _Refused("node-mismatch", f"rollouts of node {whose} in a segment of node {node}")
    if len(value["rollouts"]) > expected.slots:
        raise _Refused("too-many", f"{len(value['rollouts']):,} rollouts in a round, {expected.slots} are the most")
    rollouts: list[Rollout] = []
    refused: list[Refusal] = []
    for one in value["rollouts"]:
        try:
            rollout = _rollout(one, expected, whose, number, tokenizer)
            if any(rollout.slot == other.slot for other in rollouts):
                raise _Refused("slot-twice", f"two rollouts of slot {rollout.slot}")
            rollouts.append(rollout)
        except _Refused as error:
            refused.append(Refusal(error.kind, str(error), whose, number))
    return Batch(expected.configuration, whose, number, step, tokenizer, tuple(rollouts)), refused


def _header(value: Any, expected: Expected) -> tuple[int, int, int, str]:
    if not isinstance(value, dict) or not isinstance(value.get("rollouts"), list):
        raise _Refused("schema", "a batch is not an object with rollouts")
    tokenizer = value.get("tokenizer")
    if not isinstance(tokenizer, str) or len(tokenizer) > 100:
        raise _Refused("schema", f"a tokenizer is a digest, got {tokenizer!r:.80}")
    whose = _whole(value.get("node"), expected.nodes, "unknown-node", "node")
    number = _whole(value.get("round"), expected.rounds, "unknown-round", "round")
    return whose, number, _whole(value.get("step"), 2**53, "schema", "step"), tokenizer


def _rollout(value: Any, expected: Expected, node: int, number: int, tokenizer: str) -> Rollout:
    if not isinstance(value, dict) or not isinstance(value.get("answers"), list):
        raise _Refused("schema", "a rollout is not an object with answers")
    slot = _whole(value.get("slot"), expected.slots, "unknown-slot", "slot")
    task = value.get("task")
    if task not in expected.tasks:
        raise _Refused("unknown-task", f"a task {task!r:.80}")
    index = _whole(value.get("index"), INDICES, "unknown-index", "index")
    if expected.question and (task, index) != expected.question(node, number, slot):
        raise _Refused("another-question", f"node {node} is not to ask {task} {index} in round {number}, slot {slot}")
    if len(value["answers"]) != expected.group:
        raise _Refused("another-G", f"{len(value['answers']):,} answers to a question, not {expected.group}")
    answers = tuple(_answer(one, expected) for one in value["answers"])
    if any(one.ids for one in answers) and not tokenizer:
        raise _Refused("schema", "token ids without a tokenizer")
    return Rollout(expected.configuration, node, number, slot, task, index, answers, tokenizer)


def _answer(value: Any, expected: Expected) -> Answer:
    if not isinstance(value, dict) or type(value.get("ended")) is not bool or not isinstance(value.get("text"), str):
        raise _Refused("schema", "an answer is not an object with a text and whether it ended")
    if len(value["text"]) > expected.longest:
        raise _Refused("too-long", f"an answer of {len(value['text']):,} characters, {expected.longest:,} are allowed")
    ids, logprobs = value.get("ids", []), value.get("logprobs", [])
    if not isinstance(ids, list) or not isinstance(logprobs, list):
        raise _Refused("schema", "ids or logprobs are no list")
    if max(len(ids), len(logprobs)) > expected.most_tokens:
        raise _Refused("too-long", f"an answer of {len(ids):,} tokens, {expected.most_tokens:,} are allowed")
    if not all(type(one) is int and 0 <= one < MOST_ID for one in ids):
        raise _Refused("schema", "token ids are whole numbers from 0")
    if logprobs and len(logprobs) != len(ids):
        raise _Refused("schema", f"{len(logprobs):,} log-probabilities of {len(ids):,} tokens")
    if not all(type(one) in (int, float) and LOWEST_LOGPROB <= one <= 0 and math.isfinite(one) for one in logprobs):
        raise _Refused("schema", "a log-probability is not a number of at most 0")
    return Answer(value["text"], value["ended"], tuple(ids), tuple(map(float, logprobs)))


def _whole(value: Any, below: int, kind: str, what: str) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise _Refused(kind, f"{what} {value!r:.40} is not a whole number from 0 to {below - 1:,}")
    return value

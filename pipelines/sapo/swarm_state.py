"""What a swarm keeps between rounds, beside its policies: ledgers, sums, and rollouts that may be used again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData
from pipelines.sapo.arrivals import Expected, unpack
from pipelines.sapo.ledger import Ledger
from pipelines.sapo.rollouts import Batch, packed

FORMAT, VERSION = "hybrid/swarm", 1
LONGEST_HEAD = 64 * 1024 * 1024
"""Bytes of the first line."""


@dataclass(slots=True)
class SwarmState:
    """By node: the ledger and the sum of `reward_train` so far. `recent`: what was written and may be trained later.

    `unpublished`: what was written since the last segment. `cold`: rounds at the beginning in which nothing could be
    learnt; `asked`: whether any question has left room for an answer.
    """

    ledgers: list[Ledger]
    cumulative: list[float]
    recent: list[Batch] = field(default_factory=list)
    unpublished: list[Batch] = field(default_factory=list)
    cold: int = 0
    asked: bool = False

    def forget(self, round: int, max_age: int) -> None:
        """Drop what is too old for the rounds after `round`."""
        self.recent = [one for one in self.recent if one.round > round - max_age]

    def pack(self, policies: bytes) -> bytes:
        """One line of JSON, the batches, and the state of the policies."""
        recent, unpublished = packed(self.recent), packed(self.unpublished)
        head: dict[str, Json] = {
            "format": FORMAT,
            "version": VERSION,
            "ledgers": [one.to_json() for one in self.ledgers],
            "cumulative": list(self.cumulative),
            "cold": self.cold,
            "asked": self.asked,
            "recent": [len(one) for one in recent],
            "unpublished": [len(one) for one in unpublished],
        }
        return b"".join([encode(head), b"\n", *recent, *unpublished, policies])

    @classmethod
    def read(cls, data: bytes, nodes: Sequence[int], expected: Expected) -> tuple[SwarmState, bytes]:
        """The state of these nodes, and that of their policies. Raises BadData."""
        what = "the state of a swarm"
        end = data.find(b"\n", 0, LONGEST_HEAD)
        if end < 0:
            raise BadData(f"{what}: no line that says what is in it")
        head = decode(data[:end], what=what, limit=LONGEST_HEAD)
        if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise BadData(f"{what}: of another format or version")
        try:
            ledgers = [Ledger.from_json(one) for one in head["ledgers"]]
            cumulative = [float(one) for one in head["cumulative"]]
            sizes = [[int(one) for one in head[name]] for name in ("recent", "unpublished")]
            cold, asked = int(head["cold"]), bool(head["asked"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(f"{what}: {error!s:.200}") from error
        if [one.node for one in ledgers] != list(nodes) or not all(map(math.isfinite, cumulative)):
            raise BadData(f"{what}: of other nodes")
        if len({one.rounds for one in ledgers}) != 1:
            raise BadData(f"{what}: its ledgers are of different rounds")
        if len(cumulative) != len(nodes) or min([0, *sizes[0], *sizes[1]]) < 0:
            raise BadData(f"{what}: its parts do not fit")
        recent, at = _batches(data, end + 1, sizes[0], expected)
        unpublished, at = _batches(data, at, sizes[1], expected)
        return cls(ledgers, cumulative, recent, unpublished, cold, asked), data[at:]


def _batches(data: bytes, at: int, sizes: Sequence[int], expected: Expected) -> tuple[list[Batch], int]:
    """The batches in parts of these sizes from `at` on, and where they end."""
    batches: list[Batch] = []
    for size in sizes:
        found = unpack(data[at : at + size], expected)
        if found.refused:
            raise BadData(f"the state of a swarm: {found.refused[0].why}")
        batches += found.batches
        at += size
    return batches, at

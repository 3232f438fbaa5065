"""The state of a loop as a run keeps it: what the loop gave, and the texts and costs of all rounds before it.

With the texts in it, a round's record can be made again whenever a state that contains the round is safe. A record is
written only then, so none is newer than every state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import BadData
from hybrid.loops import Series
from hybrid.metrics import RoundMetrics, checked_costs

PLAIN, WITH_COSTS = 1, 2
"""Versions; a state without costs is written as before there were any."""
LONGEST_HEAD = 256 * 1024 * 1024
"""Bytes of the texts of all rounds."""


class DoneRound(NamedTuple):
    """A round that was computed: the text of its record, the seconds that it took, and its costs by group."""

    text: str
    seconds: float
    costs: Mapping[str, Mapping[str, float]] = {}


@dataclass(slots=True)
class LoopState:
    """The rounds so far, and the state after the last of them."""

    rounds: list[DoneRound] = field(default_factory=list)
    data: bytes = b""

    def pack(self) -> bytes:
        """One line of JSON, then the loop's own bytes."""
        costly = any(one.costs for one in self.rounds)
        rounds: list[Json] = [list(one if costly else one[:2]) for one in self.rounds]
        version = WITH_COSTS if costly else PLAIN
        return encode({"format": "hybrid/loop", "version": version, "rounds": rounds}) + b"\n" + self.data

    @classmethod
    def read(cls, packed: bytes, most: int) -> LoopState:
        """Read an untrusted state of at most `most` rounds. Raises BadData."""
        what = "the state of a loop"
        end = packed.find(b"\n", 0, LONGEST_HEAD)
        if end < 0:
            raise BadData(f"{what}: no line with its rounds")
        head = decode(packed[:end], what=what, limit=LONGEST_HEAD)
        version = head.get("version") if isinstance(head, dict) else None
        if not isinstance(head, dict) or head.get("format") != "hybrid/loop" or version not in (PLAIN, WITH_COSTS):
            raise BadData(f"{what}: of another format or version")
        rounds = head.get("rounds")
        if not isinstance(rounds, list) or not 0 < len(rounds) <= most:
            raise BadData(f"{what}: its number of rounds is impossible")
        try:
            return cls([_round(*one) for one in rounds], packed[end + 1 :])
        except (TypeError, ValueError) as error:
            raise BadData(f"{what}: {error!s:.200}") from error


def state_name(stage: str, model: str, series: Series) -> str:
    """Under which name the states of a series are kept: `stage` is the stage's identity, `model` its model's digest."""
    return digest([stage, model, series.name, dict(series.settings)])


def _round(text: object, seconds: object, costs: object = None) -> DoneRound:
    if not isinstance(text, str) or isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError("a round is a text and its seconds")
    RoundMetrics.from_text(text)
    return DoneRound(text, float(seconds), checked_costs({} if costs is None else costs))

"""The state of a loop as a run keeps it: what the loop gave, and the texts of all rounds before it.

With the texts in it, a round's record can be made again whenever a state that contains the round is safe. A record is
written only then, so none is newer than every state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData
from hybrid.metrics import RoundMetrics

VERSION = 1
LONGEST_HEAD = 256 * 1024 * 1024
"""Bytes of the texts of all rounds."""


@dataclass(slots=True)
class LoopState:
    """Text and seconds of each round so far, and the state after the last of them."""

    rounds: list[tuple[str, float]] = field(default_factory=list)
    data: bytes = b""

    def pack(self) -> bytes:
        """One line of JSON, then the loop's own bytes."""
        rounds: list[Json] = [[text, seconds] for text, seconds in self.rounds]
        return encode({"format": "hybrid/loop", "version": VERSION, "rounds": rounds}) + b"\n" + self.data

    @classmethod
    def read(cls, packed: bytes, most: int) -> LoopState:
        """Read an untrusted state of at most `most` rounds. Raises BadData."""
        what = "the state of a loop"
        end = packed.find(b"\n", 0, LONGEST_HEAD)
        if end < 0:
            raise BadData(f"{what}: no line with its rounds")
        head = decode(packed[:end], what=what, limit=LONGEST_HEAD)
        if not isinstance(head, dict) or (head.get("format"), head.get("version")) != ("hybrid/loop", VERSION):
            raise BadData(f"{what}: of another format or version")
        rounds = head.get("rounds")
        if not isinstance(rounds, list) or not 0 < len(rounds) <= most:
            raise BadData(f"{what}: its number of rounds is impossible")
        try:
            return cls([_round(*one) for one in rounds], packed[end + 1 :])
        except (TypeError, ValueError) as error:
            raise BadData(f"{what}: {error!s:.200}") from error


def _round(text: object, seconds: object) -> tuple[str, float]:
    if not isinstance(text, str) or isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ValueError("a round is a text and its seconds")
    RoundMetrics.from_text(text)
    return text, float(seconds)

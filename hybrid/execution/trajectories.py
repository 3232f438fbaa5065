"""Trajectories of a loop: which of its records follow from each other.

A loop that went on from one state on two machines may give two sequences of rounds, which must never be mixed. Every
record names the history of its round, a digest of the texts of all rounds up to it: a record follows another if its
history is that of the other one, continued with its own text. So the records alone say which belong together, and two
machines that compute the same have the same history.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from hybrid.canonical import digest

LENGTH = 16
"""Hex digits of a history."""


def beginning(identity: str, model: str, series: str) -> str:
    """The history before the first round of a series, of a stage's identity and the digest of its model."""
    return digest([identity, model, series])[:LENGTH]


def continued(history: str, text: str) -> str:
    """The history after one more round, whose record has this text."""
    return hashlib.sha256(f"{history} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


def longest(history: str, rounds: Sequence[Mapping[str, str]]) -> list[str]:
    """The histories of the longest trajectory from the beginning `history`, round by round.

    `rounds` are history -> text of the records that there are of each round. Of several trajectories of the same length
    it is the one with the smallest last history, on every machine.
    """
    before: list[dict[str, str]] = []  # of each round: history -> that of the round before it
    reached = {history}
    for records in rounds:
        follows = {own: parent for own, text in records.items() for parent in reached if continued(parent, text) == own}
        if not follows:
            break
        before.append(follows)
        reached = set(follows)
    found = [min(reached)] if before else []
    for follows in reversed(before[1:]):
        found.append(follows[found[-1]])
    return found[::-1]

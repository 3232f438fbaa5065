"""What all federations have in common in a round: who takes part, what is drawn how, traffic, and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from hybrid.metrics import LONGEST, RoundMetrics
from pipelines.atlas.methods import client_name
from pipelines.atlas.rows import FederatedRows
from pipelines.atlas.scores import averages, spread

MOST_LAYERS = 400
"""Layers of which a record tells the ranks."""


@dataclass(slots=True)
class Traffic:
    """Bytes of the files that each member sent and fetched in a round."""

    up: list[int]
    down: list[int]

    @classmethod
    def of(cls, members: int) -> Traffic:
        """Nothing yet."""
        return cls([0] * members, [0] * members)


def participants(members: int, count: int, seed: int, number: int) -> list[int]:
    """The members that take part in a round, in ascending order: `count` of them, drawn anew, or all when it is 0."""
    if not count or count >= members:
        return list(range(members))
    return sorted(Random(f"{seed} participants {number}").sample(range(members), count))


def draw_key(seed: int, number: int, member: int) -> str:
    """By what a member's draws of a round are seeded; `number` is -1 before the first round."""
    return f"{seed} round {number} member {member}"


def metrics_of(
    number: int,
    rows: FederatedRows,
    clients: Sequence[Mapping[str, float]],
    traffic: Traffic,
    more: Mapping[str, float],
    layers: Mapping[str, Mapping[str, float]],
) -> RoundMetrics:
    """The record of a round: clients, the means of each task and of all, the bytes of all, `more`, and `layers`."""
    groups: dict[str, Mapping[str, float]] = {}
    truncated = [one.truncated for one in rows.clients]
    for one, (found, cut) in enumerate(zip(clients, truncated, strict=True)):
        groups[client_name(one, len(clients))] = {**found, "truncated": cut} if cut else found
    for task in rows.tasks:
        of = [found for found, one in zip(clients, rows.clients, strict=True) if one.task == task]
        groups[f"task-{task}"] = averages(of)
    if len(layers) <= MOST_LAYERS:
        groups |= {f"layer-{name}"[:LONGEST]: found for name, found in layers.items()}
    sums = {"upload_bytes": sum(traffic.up), "download_bytes": sum(traffic.down)}
    if any(truncated):
        sums["truncated"] = sum(truncated)
    return RoundMetrics(number, {**averages(clients), **spread(clients), **sums, **more}, groups)

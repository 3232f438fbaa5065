"""What federated rounds train, at most, from the settings and the texts of the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.loads import RoundsLoad
from hybrid.tuning import PolicyTuning
from pipelines.atlas.settings import AtlasSettings

CHARACTERS = 3.5
"""Of a token of a text, rather too few."""
MARKS = 3
"""Tokens that stand around a text or a pair."""
EVALUATED = 0.5
"""A row that is only evaluated costs about half of one that is trained on: no backward pass."""


def foreseen_rounds(settings: AtlasSettings, tasks: Mapping[str, Any], data: Mapping[str, Any]) -> RoundsLoad:
    """The load of all series: all clients of a series train side by side, or one where each is a series of its own."""
    how, apart = settings, settings.exchange == "folder"
    sizes = [len(row[0]) + len(row[1] or "") for one in data.values() for row in one["train"]]
    mean = min(how.longest, MARKS + sum(sizes) / CHARACTERS / max(1, len(sizes)))
    longest = min(how.longest, int(MARKS + max(sizes, default=1) / CHARACTERS))
    clients = how.participants or how.clients
    trained = how.samples * (1 - how.held_out) * how.epochs * clients
    rows = trained + EVALUATED * how.samples * how.held_out * how.clients
    full = all(of["method"] == "fedavg" for of in tasks.values())
    rank = 0 if full else max(how.ranks())
    return RoundsLoad(
        rounds=len(tasks) * how.rounds * (1 + how.clients if apart else 1),
        trained_tokens=round(len(tasks) * how.rounds * rows * mean),
        longest=longest,
        models=1 if apart else how.clients,
        tuning=PolicyTuning(rank, max(1.0, how.scale * rank), how.targets),
    )

"""Divide the rows of a task among clients, alike or skewed, and hold out a part of each client's rows for its tests.

With `dirichlet`, the rows of each label go to the clients in proportions drawn from a Dirichlet distribution (Yurochkin
and others 2019, ICML; Li and others 2022, ICDE). With `quantity`, the sizes of the clients are drawn so, and labels are
alike. The lower the concentration, the greater the skew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Literal, Protocol, TypeVar

from hybrid.errors import BadData

Kind = Literal["iid", "dirichlet", "quantity"]

LEAST_ROWS = 2
"""Rows of a client: one to train on and one to test on."""


class HasLabel(Protocol):
    """A row of a task, or its tokens."""

    @property
    def label(self) -> int:
        """The number of its label."""
        ...


Labelled = TypeVar("Labelled", bound=HasLabel)


def divide(
    rows: Sequence[Labelled], clients: int, kind: Kind, concentration: float, seed: str, held_out: float
) -> list[tuple[list[Labelled], list[Labelled]]]:
    """The rows of each client, to train on and to test on; every row goes to one client.

    `held_out`: the share to test on, at least one row and never all. `seed` draws everything. A client that would have
    fewer than LEAST_ROWS gets rows of the largest one. Raises BadData for too few rows.
    """
    if len(rows) < LEAST_ROWS * clients:
        raise BadData(
            f"{len(rows)} rows for {clients} clients of a task: each needs {LEAST_ROWS}, to train and to test",
            hint="fewer clients: --set clients=N",
        )
    random = Random(f"partition {seed}")
    shuffled = random.sample(rows, len(rows))
    if kind == "iid":
        parts = [list(shuffled[client::clients]) for client in range(clients)]
    elif kind == "quantity":
        parts = _in_shares(shuffled, clients, concentration, random)
    else:
        parts = _by_label(shuffled, clients, concentration, random)
    _fill(parts)
    return [_held_out(random.sample(part, len(part)), held_out) for part in parts]


def _by_label(rows: Sequence[Labelled], clients: int, concentration: float, random: Random) -> list[list[Labelled]]:
    parts: list[list[Labelled]] = [[] for _ in range(clients)]
    for label in sorted({row.label for row in rows}):
        of_label = [row for row in rows if row.label == label]
        for part, more in zip(parts, _in_shares(of_label, clients, concentration, random), strict=True):
            part.extend(more)
    return parts


def _in_shares(rows: Sequence[Labelled], clients: int, concentration: float, random: Random) -> list[list[Labelled]]:
    parts, begin, reached = [], 0, 0.0
    for share in _dirichlet(clients, concentration, random):
        reached += share
        end = min(len(rows), round(reached * len(rows)))
        parts.append(list(rows[begin:end]))
        begin = end
    parts[-1] += rows[begin:]  # the sum of the shares may be below 1 by rounding
    return parts


def _dirichlet(size: int, concentration: float, random: Random) -> list[float]:
    """Shares with the sum 1.

    In logarithms: with a low concentration all gamma variates would be 0. Gamma(c) is Gamma(c + 1) * U^(1 / c).
    """
    logs = [
        math.log(random.gammavariate(concentration + 1, 1.0)) + math.log(1 - random.random()) / concentration
        for _ in range(size)
    ]
    top = max(logs)
    weights = [math.exp(one - top) for one in logs]
    return [weight / math.fsum(weights) for weight in weights]


def _fill(parts: list[list[Labelled]]) -> None:
    """Move rows from the largest parts to those that have too few."""
    for part in parts:
        while len(part) < LEAST_ROWS:
            part.append(max(parts, key=len).pop())


def _held_out(rows: list[Labelled], share: float) -> tuple[list[Labelled], list[Labelled]]:
    tests = min(len(rows) - 1, max(1, round(share * len(rows))))
    return rows[tests:], rows[:tests]

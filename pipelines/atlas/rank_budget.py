"""Ranks of a client's adapter, by layer, within the memory of its device.

A rank of a layer [out, in] costs (in + out) numbers, each with its gradient and both moments of AdamW. What the device
holds anyway, the base model and the activations, is subtracted first. The ranks maximise the sum over the layers of
importance * log(1 + rank), so that each further rank of a layer is worth less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TRAINED_BYTES = 16
"""Of a trained number: value, gradient and two moments in fp32."""


class BudgetTooSmall(ValueError):
    """Not even the smallest candidate fits in every layer: that takes `needed` bytes of a `budget`."""

    def __init__(self, needed: int, budget: int) -> None:
        super().__init__(f"the smallest adapter needs {needed:,} bytes, and the budget is {budget:,}")
        self.needed, self.budget = needed, budget


@dataclass(frozen=True, slots=True)
class Allocation:
    """Layer -> rank, and the bytes they take with what is held anyway.

    `binds`: with a larger budget some rank would be higher. A budget that never binds tells nothing about a method.
    """

    ranks: Mapping[str, int]
    bytes: int
    binds: bool


def rank_bytes(width_in: int, width_out: int) -> int:
    """Bytes of one rank of a layer in training."""
    return (width_in + width_out) * TRAINED_BYTES


def held_bytes(base: int, tokens: int, bytes_per_token: float, *, head: int = 0, reserve: float = 0.1) -> int:
    """Bytes that a device holds beside its adapter.

    `base`: bytes of the frozen layers that it holds; `tokens` of an optimizer step, whose activations take
    `bytes_per_token`, as measured; `head`: numbers of the trained head; `reserve`: a share of all of these.
    """
    return math.ceil((base + tokens * bytes_per_token + head * TRAINED_BYTES) * (1 + reserve))


def allocate(
    layers: Mapping[str, tuple[int, int]],
    importance: Mapping[str, float],
    budget_bytes: int,
    candidates: Sequence[int],
    fixed_bytes: int = 0,
) -> Allocation:
    """A candidate rank for each layer of `layers`, name -> (in, out), none above the layer's narrower side.

    Every layer begins with its smallest rank; then again and again the step up that gains the most for each byte is
    taken, of those that fit. That is the best choice where all steps cost the same, and otherwise less than one step
    from it, since the gain for each byte falls along the steps of a layer. Ties go to the first name.

    Raises BudgetTooSmall; ValueError for a candidate below 1, and a layer without an importance of at least 0.
    """
    ladders = {name: _ladder(name, layers[name], candidates) for name in sorted(layers)}
    for name in ladders:
        if not 0 <= importance.get(name, math.nan) < math.inf:
            raise ValueError(f"layer {name!r} has no importance of at least 0: {importance.get(name)}")
    places = dict.fromkeys(ladders, 0)
    used = fixed_bytes + sum(ladder[0] * rank_bytes(*layers[name]) for name, ladder in ladders.items())
    if used > budget_bytes:
        raise BudgetTooSmall(used, budget_bytes)
    binds, open_layers = False, [name for name in ladders if importance[name] > 0 and len(ladders[name]) > 1]
    while open_layers:
        name = max(open_layers, key=lambda one: _gain(ladders[one], places[one], importance[one], layers[one]))
        low, high = ladders[name][places[name] : places[name] + 2]
        cost = (high - low) * rank_bytes(*layers[name])
        if used + cost > budget_bytes:
            binds = True
            open_layers.remove(name)
            continue
        used += cost
        places[name] += 1
        if places[name] + 1 == len(ladders[name]):
            open_layers.remove(name)
    return Allocation({name: ladders[name][places[name]] for name in layers}, used, binds)


def value_of(ranks: Mapping[str, int], importance: Mapping[str, float]) -> float:
    """What `allocate` maximises."""
    return math.fsum(importance[name] * math.log1p(rank) for name, rank in ranks.items())


def _gain(ladder: Sequence[int], place: int, importance: float, widths: tuple[int, int]) -> float:
    """What the next step up of a layer adds to the value, for each byte."""
    low, high = ladder[place : place + 2]
    return importance * (math.log1p(high) - math.log1p(low)) / ((high - low) * rank_bytes(*widths))


def _ladder(name: str, widths: tuple[int, int], candidates: Sequence[int]) -> list[int]:
    """The candidates that a layer can have, ascending; its narrower side if all are above it."""
    if not candidates or min(candidates) < 1:
        raise ValueError(f"candidate ranks are at least 1: {list(candidates)}")
    if min(widths) < 1:
        raise ValueError(f"layer {name!r} has no width: {widths}")
    return sorted({min(rank, *widths) for rank in candidates})

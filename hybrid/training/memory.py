"""What training will need of the device's memory, told before it starts, with the arithmetic.

The bytes that a token keeps for the backward pass are not guessed from the architecture: a short pack is run, and what
autograd saves is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hybrid.errors import CannotRun

STATE = 16
"""Bytes of a trained number: its value, gradient and AdamW's two moments, fp32."""

LOGITS = 14
"""Bytes of a logit: in the model's type, fp32 with its softmax, and their gradients; freed before anything else is."""

SHARE = 0.9
"""Part of the free memory that may be planned: allocators lose some to gaps."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass holds: adapters in `slots`, at most `tokens` tokens, and at most `activations` bytes of what the
    backward pass needs, counted as tokens * `per_token` + labels * `per_label`. The first text always goes in.
    """

    slots: int
    tokens: int
    activations: int
    per_token: int
    per_label: int
    per_slot: int
    free: int

    def cost(self, tokens: int, labels: int) -> int:
        """The activations of texts, in bytes."""
        return tokens * self.per_token + labels * self.per_label

    @property
    def peak(self) -> int:
        """Predicted bytes beside the model's weights."""
        return self.slots * self.per_slot + self.activations

    def words(self) -> str:
        """The arithmetic, for people."""
        return (
            f"{self.slots} adapters x {_mib(self.per_slot)} (values, gradients, moments) + {_mib(self.activations)} of "
            f"activations ({self.per_token:,} bytes a token, {self.per_label:,} a label), of {_mib(self.free)} free"
        )


def plan(
    texts: Sequence[tuple[int, int]],
    *,
    slots: int,
    tokens: int,
    numbers: int,
    per_token: int,
    per_label: int,
    free: int,
) -> Plan:
    """The most adapters of `numbers` trained numbers each, up to `slots`, that leave room for a full pass of `tokens`.

    `texts` has the largest text of each job as (tokens, labels), `free` is the device's free bytes. When a large text
    leaves room for one adapter only, there is one; jobs whose text does not fit even then are the caller's to refuse.
    Raises CannotRun with the arithmetic when nothing fits.
    """
    room, each = int(free * SHARE), STATE * numbers
    costs = [count * per_token + labels * per_label for count, labels in texts]
    full = max(*costs, tokens * per_token)
    most = max(*costs, tokens * (per_token + per_label))
    for count in range(slots, 1, -1):
        if room - count * each >= full:
            return Plan(count, tokens, min(room - count * each, most), per_token, per_label, each, free)
    if room - each < min(costs):
        count, labels = texts[costs.index(min(costs))]
        raise CannotRun(
            f"training does not fit: one adapter takes {_mib(each)} ({numbers:,} numbers x {STATE} bytes) and a text "
            f"{_mib(min(costs))} ({count:,} tokens x {per_token:,} bytes + {labels:,} labels x {per_label:,}); "
            f"{_mib(room)} of {_mib(free)} free may be used",
            hint="take a smaller rank (--set rank=16), shorter texts, a smaller model or a larger device",
        )
    return Plan(1, tokens, min(room - each, most), per_token, per_label, each, free)


def saved_bytes(act: Callable[[], object]) -> int:
    """The bytes that autograd keeps for the backward pass of what `act` computes, each storage once."""
    seen: dict[int, torch.UntypedStorage] = {}  # alive while they are counted, so that no address comes twice

    def keep(tensor: torch.Tensor) -> None:
        """The graph gets nothing to keep: a node that holds its own output is never freed."""
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        act()
    return sum(storage.nbytes() for storage in seen.values())


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"

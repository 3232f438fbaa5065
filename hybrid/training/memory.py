"""The memory plan of training: the device memory that it will need, computed before it starts.

The bytes that a token keeps for the backward pass are measured, not derived from the architecture: a short pack is run,
and the tensors that autograd saves are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from hybrid.errors import CannotRun

BYTES_PER_PARAMETER = 16
"""Bytes per trained parameter: its value, its gradient and AdamW's two moments, in fp32."""

BYTES_PER_LOGIT = 14
"""Bytes per logit: in the model's type, in fp32 with its softmax, and their gradients; freed first in the backward
pass."""

PLANNABLE_FRACTION = 0.9
"""Fraction of the free memory that may be planned with: allocators lose some to fragmentation."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The limits of a pass: `slots` adapters, `tokens` tokens and `activations` bytes.

    The activations of a text are tokens * `per_token` + labels * `per_label` bytes. One text is always allowed.
    `per_slot` is the bytes of a slot, `free` the device's free bytes.
    """

    slots: int
    tokens: int
    activations: int
    per_token: int
    per_label: int
    per_slot: int
    free: int

    def cost(self, tokens: int, labels: int) -> int:
        """The bytes of activations of texts with so many tokens and labels."""
        return tokens * self.per_token + labels * self.per_label

    def halved(self, tokens: int, labels: int) -> MemoryPlan:
        """The plan after a pass with so many tokens and labels has run out of memory: half of it at a time."""
        return replace(self, tokens=max(1, tokens // 2), activations=max(1, self.cost(tokens, labels) // 2))

    @property
    def peak(self) -> int:
        """Predicted peak of the bytes in addition to the model's weights."""
        return self.slots * self.per_slot + self.activations

    def explain(self) -> str:
        """The arithmetic, for messages."""
        return (
            f"{self.slots} adapters x {_mib(self.per_slot)} (values, gradients, moments) + {_mib(self.activations)} of "
            f"activations ({self.per_token:,} bytes a token, {self.per_label:,} a label), of {_mib(self.free)} free"
        )


def plan_memory(
    texts: Sequence[tuple[int, int]],
    *,
    slots: int,
    tokens: int,
    parameters: int,
    per_token: int,
    per_label: int,
    free: int,
) -> MemoryPlan:
    """The most adapters of `parameters` trained parameters each, up to `slots`, with which a pass of `tokens` fits.

    `texts` has the largest text of each job as (tokens, labels), `free` is the device's free bytes. When a large text
    leaves room for one adapter only, there is one; the caller refuses jobs whose text does not fit even then.
    Raises CannotRun with the arithmetic when nothing fits.
    """
    room, each = int(free * PLANNABLE_FRACTION), BYTES_PER_PARAMETER * parameters
    costs = [count * per_token + labels * per_label for count, labels in texts]
    full = max(*costs, tokens * per_token)
    most = max(*costs, tokens * (per_token + per_label))
    for count in range(slots, 1, -1):
        if room - count * each >= full:
            return MemoryPlan(count, tokens, min(room - count * each, most), per_token, per_label, each, free)
    if room - each < min(costs):
        count, labels = texts[costs.index(min(costs))]
        raise CannotRun(
            f"training does not fit: one adapter takes {_mib(each)} ({parameters:,} parameters x {BYTES_PER_PARAMETER} "
            f"bytes) and a text {_mib(min(costs))} ({count:,} tokens x {per_token:,} bytes + {labels:,} labels x "
            f"{per_label:,}); "
            f"{_mib(room)} of {_mib(free)} free may be used",
            hint="take a smaller rank (--set rank=16), shorter texts, a smaller model or a larger device",
        )
    return MemoryPlan(1, tokens, min(room - each, most), per_token, per_label, each, free)


def saved_bytes(act: Callable[[], object]) -> int:
    """The bytes that autograd saves for the backward pass of `act`, each storage counted once."""
    seen: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

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

"""Adapters in slots with an optimizer: what a slot's training has come to, out of the bank and into it again."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hybrid.training.optimizer import SlotAdamW
from hybrid.training.slots import AdapterBank


class StatefulBank(AdapterBank):
    """An `AdapterBank` whose slots are trained by `optimizer`."""

    optimizer: SlotAdamW

    def state(self, slot: int) -> dict[str, torch.Tensor]:
        """Copies on the CPU of a slot's values, moments, step count, loss scale and gradients."""
        parts = {"values": self.values[slot], **self.optimizer.state(slot)}
        return {name: value.detach().to("cpu", copy=True) for name, value in parts.items()}

    def restore(self, slot: int, state: Mapping[str, torch.Tensor]) -> None:
        """Restore the result of `state`. Call `put` before."""
        self.values[slot].copy_(state["values"])
        self.optimizer.restore(slot, state)

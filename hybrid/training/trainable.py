"""K adapters over one frozen model that are trained independently: gradients of texts, steps, weights in and out.

Nothing here knows of jobs or of an order: who calls it decides which slot sees which text when.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.training import adapters
from hybrid.training.adapters import LoraWeights
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.packed_model import PackedModel
from hybrid.training.packing import Pack
from hybrid.training.slot_states import StatefulBank
from hybrid.training.slots import Route
from hybrid.tuning import Tuning


class TrainableBank(StatefulBank):
    """The adapters of `slots` slots of a packed model, their gradients and optimizers.

    `checkpointed`: the model's layers are computed again in the backward pass, with the same gradients.
    """

    def __init__(self, model: PackedModel, slots: int, rank: int, *, checkpointed: bool = False) -> None:
        super().__init__(model.slotted.layers, slots, rank, model.model, training=True)
        self.model, self.checkpointed = model, checkpointed
        self.optimizer = SlotAdamW(self, scaled=model.dtype == torch.float16)
        self._shapes: dict[int, LoraWeights] = {}  # slot -> what was put there, for the shapes of the result

    def put(self, slot: int, weights: LoraWeights, tuning: Tuning, *, frozen: int = 0) -> None:
        """Write an adapter into a slot and reset its optimizer; the first `frozen` ranks are never changed."""
        adapters.load(self, slot, weights)
        self.optimizer.begin(slot, tuning, self._first_ranks(frozen) if frozen else None)
        self._shapes[slot] = weights

    def backward(self, pack: Pack) -> torch.Tensor:
        """Accumulate the gradients of a pack's texts in their slots.

        Returns the slots' unscaled losses [slots], on the device.
        """
        each = self._losses(pack)
        (each * self.optimizer.scale[pack.slot]).sum().backward()
        return each.new_zeros(self.slots).index_add_(0, pack.slot, each.detach())

    def _losses(self, pack: Pack) -> torch.Tensor:
        """The weighted loss of each label. The logits are freed at its end: the backward pass needs their memory."""
        route = Route(self, pack.lengths, self.model.dtype, groups=pack.groups, slot_of_row=pack.slot_of_row)
        logits = self.model.logits_of(pack, route, checkpointed=self.checkpointed)
        return F.cross_entropy(logits.to(self.values.dtype), pack.targets, reduction="none") * pack.weight

    def step(self, slot: int, learning_rate: float) -> torch.Tensor:
        """One optimizer step of a slot with its gradients, which are then zero. Returns 1 when skipped, else 0."""
        return self.optimizer.step(slot, learning_rate)

    def forget_gradients(self, slot: int) -> None:
        """Zero what was accumulated of the slot's step."""
        self.optimizer.forget_gradients(slot)

    def weights(self, slot: int) -> LoraWeights:
        """The present adapter of a slot, on the CPU."""
        return adapters.extract(self, slot, self._shapes[slot])

    def _first_ranks(self, count: int) -> torch.Tensor:
        """A mask [N] of a slot's parameters that belong to the first `count` ranks."""
        marks = torch.zeros(1, self.size, dtype=torch.bool)
        for name in self.places:
            a, b = self.pair(marks, name)
            a[:, :, :count] = True
            b[:, :count] = True
        return marks[0]

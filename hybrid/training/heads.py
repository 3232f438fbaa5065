"""Classification heads as Hugging Face's models have them, and K of them in the slots of a flat buffer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hybrid.training.grouped import RowGroups, best_method
from hybrid.training.memory import aligned

LABELS = 0
"""The output width of a head's last layer: as many as there are labels."""


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """A dense layer of a head, by its name in Hugging Face's model; `width_out` is `LABELS` in the last one."""

    name: str
    width_in: int
    width_out: int
    bias: bool = True
    activation: Literal["", "relu", "tanh"] = ""

    def shapes(self, labels: int) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters in Hugging Face's model, by name."""
        width = self.width_out or labels
        bias = {f"{self.name}.bias": (width,)} if self.bias else {}
        return {f"{self.name}.weight": (width, self.width_in), **bias}

    def activated(self, rows: torch.Tensor) -> torch.Tensor:
        """What follows the layer."""
        return {"": lambda plain: plain, "relu": torch.relu, "tanh": torch.tanh}[self.activation](rows)


def initial_head(layers: Sequence[HeadLayer], labels: int, deviation: float, seed: int) -> dict[str, torch.Tensor]:
    """A new head as in transformers: weights normal with `deviation`, biases zero. Each tensor has a generator."""
    found = {}
    for name, shape in (item for layer in layers for item in layer.shapes(labels).items()):
        tensor_seed = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(tensor_seed)
        weight = len(shape) > 1
        found[name] = torch.empty(shape).normal_(0.0, deviation, generator=generator) if weight else torch.zeros(shape)
    return found


class SlotHeads:
    """Where the heads of a bank's slots are in its rows, from number `start` on: `size` numbers a slot.

    A weight is stored as [in, out], with `out` rounded up as ranks are; what is padded stays zero.
    """

    def __init__(self, layers: Sequence[HeadLayer], labels: int, start: int) -> None:
        self.layers, self.labels, self._start = tuple(layers), labels, start
        self.size = sum((layer.width_in + layer.bias) * self._width(layer) for layer in layers)

    def _width(self, layer: HeadLayer) -> int:
        return aligned(layer.width_out or self.labels)

    def views(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weight [slots, in, out] and bias [slots, out] of each layer in a buffer [slots, N]."""
        found, start = [], self._start
        for layer in self.layers:
            width = self._width(layer)
            end = start + layer.width_in * width
            weight = flat[:, start:end].view(-1, layer.width_in, width)
            start = end + layer.bias * width
            found.append((weight, flat[:, end:start] if layer.bias else None))
        return found

    def load(self, values: torch.Tensor, slot: int, head: Mapping[str, Any], labels: int) -> None:
        """Write a head of `labels` labels or less into a slot. Raises ValueError for one of other names or shapes."""
        wanted = {name: shape for layer in self.layers for name, shape in layer.shapes(labels).items()}
        given = {name: torch.as_tensor(value) for name, value in head.items()}
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        if shapes != wanted:
            raise ValueError(f"the head has {shapes}, and must have {wanted}")
        for layer, (weight, bias) in zip(self.layers, self.views(values[slot : slot + 1]), strict=True):
            width = layer.width_out or labels
            weight.zero_()[0, :, :width] = given[f"{layer.name}.weight"].t()
            if bias is not None:
                bias.zero_()[0, :width] = given[f"{layer.name}.bias"]

    def extract(self, values: torch.Tensor, slot: int, labels: int) -> dict[str, torch.Tensor]:
        """The head of a slot, on the CPU."""
        found = {}
        for layer, (weight, bias) in zip(self.layers, self.views(values[slot : slot + 1]), strict=True):
            width = layer.width_out or labels
            found[f"{layer.name}.weight"] = weight[0, :, :width].t().to("cpu", copy=True).contiguous()
            if bias is not None:
                found[f"{layer.name}.bias"] = bias[0, :width].to("cpu", copy=True)
        return found

    def logits(
        self, rows: torch.Tensor, lengths: Sequence[int], values: torch.Tensor, grads: torch.Tensor | None
    ) -> torch.Tensor:
        """rows [n, in], sorted by slot, `lengths[k]` of slot k -> [n, labels]. Gradients are added to `grads`."""
        used = sum(length > 0 for length in lengths)
        width = math.gcd(aligned(1), *(layer.width_in for layer in self.layers))
        groups = RowGroups(lengths, rows.device, best_method(rows.device, rows.dtype, used, width))
        slot = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(rows.device)
        of_grads = self.views(grads) if grads is not None else [(None, None)] * len(self.layers)
        for layer, pair, grad in zip(self.layers, self.views(values), of_grads, strict=True):
            rows = layer.activated(_SlotDense.apply(rows, pair, grad, groups, slot))
        return rows[:, : self.labels]


class _SlotDense(torch.autograd.Function):  # type: ignore[misc]
    """A dense layer whose rows have the weights of their slot; its gradients are accumulated in the bank's buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        pair: tuple[torch.Tensor, torch.Tensor | None],
        grads: tuple[torch.Tensor | None, torch.Tensor | None],
        groups: RowGroups,
        slot: torch.Tensor,
    ) -> torch.Tensor:
        weight, bias = pair
        ctx.weight, ctx.grads, ctx.groups, ctx.slot = weight, grads, groups, slot
        ctx.save_for_backward(rows)
        found = groups.times(rows, weight)
        return found if bias is None else found.add_(bias.index_select(0, slot))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        (rows,) = ctx.saved_tensors
        grad = grad.contiguous()
        of_weight, of_bias = ctx.grads
        of_weight += ctx.groups.outer(rows, grad)
        if of_bias is not None:
            of_bias.index_add_(0, ctx.slot, grad)
        of_rows = ctx.groups.times(grad, ctx.weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        return of_rows, None, None, None, None

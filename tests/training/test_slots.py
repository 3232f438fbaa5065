"""Layers with the same input are one operation, and their outputs do not depend on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hybrid.training.adapters import initial_weights, load
from hybrid.training.slots import AdapterBank, LayerWidths, Route, SlottedModel, shared_inputs
from tests.support.peft_reference import tiny_model, trainer

torch.set_num_threads(1)


class Crossed(torch.nn.Module):  # type: ignore[misc]
    """Two layers with the same input, unless `apart`."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(8, 16), torch.nn.Linear(8, 24, bias=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.apart = False

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        rows = input_ids.float()[..., None].expand(*input_ids.shape, 8) / 7
        return self.left(rows), self.right(rows * 2 if self.apart else rows)


def test_the_layers_of_a_block_that_share_their_input_are_found() -> None:
    slotted = trainer(tiny_model())
    first = [group for group in slotted.slotted.layers.groups if "layers.0." in group[0]]
    slotted.close()
    assert [tuple(name.rpartition(".")[2] for name in group) for group in first] == [
        ("q_proj", "v_proj"),
        ("gate_proj", "up_proj"),
        ("down_proj",),
    ]


def test_the_places_of_a_bank_do_not_overlap_and_fill_it() -> None:
    layers = LayerWidths({"q": (8, 16), "k": (8, 24), "o": (16, 8)})
    layers.groups = [("q", "k")]
    bank = AdapterBank(layers, 2, 5, tiny_model(), training=True)
    marks = torch.zeros(1, bank.size)
    for name in layers:
        for part in bank.pair(marks, name):
            part.add_(1)
    assert marks.eq(1).all()


def outputs_and_gradients(
    model: Any, groups: list[tuple[str, ...]], *, apart: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The outputs of the layers for a pack of two slots, and the bank's gradients by layer, concatenated."""
    model.apart = False
    slotted = SlottedModel(model, ("left", "right"))
    slotted.layers.groups = groups
    bank = AdapterBank(slotted.layers, 2, 4, model, training=True)
    for slot in range(2):
        weights = initial_weights(slotted.layers, ("left", "right"), 4, 8.0, slot)
        load(bank, slot, type(weights)({n: (a, b + 0.1) for n, (a, b) in weights.layers.items()}, 4, 8.0))
    model.apart = apart
    with slotted.routed(Route(bank, (3, 2), torch.float32)):
        found = model(torch.arange(5)[None])
    sum((one**2).sum() for one in found).backward()
    slotted.close()
    assert bank.grads is not None
    parts = [part.flatten() for name in ("left", "right") for part in bank.pair(bank.grads, name)]
    return [one.detach() for one in found], torch.cat(parts)


@pytest.mark.parametrize("apart", [False, True])
def test_layers_in_a_group_say_and_learn_what_they_do_alone(apart: bool) -> None:
    """Also when one of them later gets other rows than when the groups were found."""
    torch.manual_seed(0)
    model = Crossed()
    assert shared_inputs(model, {"left": model.left, "right": model.right}) == [("left", "right")]
    group_inputs, of_together = outputs_and_gradients(model, [("left", "right")], apart=apart)
    alone, of_alone = outputs_and_gradients(model, [], apart=apart)
    for one, other in zip(group_inputs, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(of_together, of_alone, rtol=1e-4, atol=1e-4)
    assert of_alone.abs().max() > 1

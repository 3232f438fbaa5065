"""The kernels that are chosen on each kind of GPU, and the results of the paths that a CPU can be made to take."""

from __future__ import annotations

import pytest
import torch

from hybrid.training import attention
from hybrid.training.attention import MAX_WIDTH, PackLayout, must_expand, packed_attention, packed_layout
from hybrid.training.grouped import best_method
from hybrid.training.jobs import Tokens
from hybrid.training.memory import saved_bytes
from hybrid.training.packing import PackedText
from hybrid.training.slots import AdapterBank, Route
from tests.support.peft_reference import tiny_model, trainer

torch.set_num_threads(1)
GPU = torch.device("cuda")
T4, A100, L4, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)


@pytest.mark.parametrize("capability", [T4, A100, L4, HOPPER, BLACKWELL])
def test_each_gpu_gets_kernels_that_it_has(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert must_expand(GPU, 64) == (capability == T4)
    assert must_expand(GPU, MAX_WIDTH + 1)
    assert (best_method(GPU, torch.bfloat16, 8, 16) == "grouped") == (capability == HOPPER)
    assert not must_expand(torch.device("cpu"), 512)


@pytest.mark.parametrize(("padding", "window"), [((0, 0), None), ((0, 5), None), ((0, 0), 7)])
def test_copied_keys_and_values_give_the_same_output_and_gradients(
    padding: tuple[int, int], window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 6, 40, 16), (1, 2, 40, 16), (1, 2, 40, 16)]
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for size in sizes]

    def found() -> list[torch.Tensor]:
        with packed_layout(PackLayout((13, 27), padding)):
            output, _ = packed_attention(None, *inputs, None, sliding_window=window)
        return [output, *torch.autograd.grad(output.square().sum(), inputs)]

    shared = found()
    monkeypatch.setattr(attention, "must_expand", lambda *_: True)
    for one, other in zip(found(), shared, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("expand", [False, True])
def test_memory_of_a_long_text_is_predicted_from_short_ones(expand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is kept grows with the square of the length."""
    monkeypatch.setattr(attention, "must_expand", lambda *_: expand)
    ours, length = trainer(tiny_model()), 2000
    predicted = ours._cost_of(4) * length
    bank = AdapterBank(ours.slotted.layers, 1, 4, ours.model, training=True)
    text = Tokens((0,) * length, (False,) * (length - 1) + (True,))
    one = ours.pack([PackedText(0, text, 1.0)], 1)
    with ours.packed():
        kept = saved_bytes(lambda: ours.logits_of(one, Route(bank, one.lengths, ours.dtype)))
    ours.close()
    assert abs(kept - predicted) < 0.1 * kept

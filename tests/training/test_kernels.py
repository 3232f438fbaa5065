"""The kernels that are chosen on each kind of GPU, and the results of the paths that a CPU can be made to take."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import sdpa_kernel

from hybrid.training import attention, grouped
from hybrid.training.attention import (
    ALIGNED,
    BLOCK,
    FUSED,
    MAX_WIDTH,
    PackLayout,
    must_expand,
    packed_attention,
    packed_layout,
)
from hybrid.training.grouped import best_method
from hybrid.training.measure import saved_bytes

torch.set_num_threads(1)
GPU = torch.device("cuda")
T4, A100, L4, HOPPER, BLACKWELL = (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)


@pytest.mark.parametrize("capability", [T4, A100, L4, HOPPER, BLACKWELL])
def test_each_gpu_gets_kernels_that_it_has(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(grouped, "grouped_mm_works", lambda *_: True)
    assert must_expand(GPU, 64) == (capability == T4)
    assert must_expand(GPU, MAX_WIDTH + 1)
    assert must_expand(GPU, 64, masked=True)
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
    monkeypatch.setattr(attention, "must_expand", lambda *_, **__: True)
    for one, other in zip(found(), shared, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(("padding", "window"), [(0, None), (700, None), (0, 300), (700, 300)])
@pytest.mark.parametrize("expand", [False, True])
def test_no_path_of_attention_keeps_the_square_of_a_length(
    expand: bool, padding: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where plain matrix products are forbidden, as they are on a GPU."""
    monkeypatch.setattr(attention, "must_expand", lambda *_, **__: expand)

    def kept(length: int) -> int:
        sizes = [(1, 6, length, 8), (1, 2, length, 8), (1, 2, length, 8)]
        inputs = [torch.zeros(size, requires_grad=True) for size in sizes]

        def forward() -> None:
            layout = PackLayout((length,), (padding * length // 4000,))
            with packed_layout(layout), sdpa_kernel(FUSED):
                packed_attention(None, *inputs, None, sliding_window=window)

        return saved_bytes(forward)

    masks = 4 * 3 * BLOCK * (BLOCK + 300 + ALIGNED) if window else 0
    assert kept(4000) < 2.1 * kept(2000) + masks


def test_attention_in_blocks_is_attention_under_a_mask_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    for padding, window in ((5, None), (0, 7), (5, 7), (0, 40)):
        with packed_layout(PackLayout((40,), (padding,))):
            found, _ = packed_attention(None, q, k, v, None, sliding_window=window)
        place = torch.arange(40)
        distance = place[:, None] - place[None]
        visible = (distance >= 0) & (place < 40 - padding)[None] & (distance < (window or 40))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        assert torch.allclose(found.transpose(1, 2), expected, atol=1e-12)

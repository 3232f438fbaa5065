"""The loss without whole logits has the value and the gradients of autograd over all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from hybrid.training import label_loss
from hybrid.training.label_loss import Head, cross_entropies, weighted_loss
from hybrid.training.measure import saved_bytes

torch.set_num_threads(1)

LABELS, WIDTH, WORDS = 70, 12, 501


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    torch.manual_seed(0)
    rows, weight, bias = torch.randn(LABELS, WIDTH), torch.randn(WORDS, WIDTH), torch.randn(WORDS)
    targets, weights = torch.randint(WORDS, (LABELS,)), torch.randn(LABELS)
    rows, weight, bias = (one.to(dtype).requires_grad_() for one in (rows, weight, bias))
    return rows, weight, bias, targets, weights.to(dtype)


@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (0.7, 0.25)])
@pytest.mark.parametrize("chunk", [16 * WORDS, 1 << 24])
def test_it_is_the_cross_entropy_of_the_whole_logits(
    chunk: int, temperature: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(label_loss.CHUNK_NUMBERS, "cpu", chunk)
    rows, weight, bias, targets, weights = drawn()
    logits = (rows @ weight.t() + bias) * scale / temperature
    each = cross_entropy(logits, targets, reduction="none")
    wanted = torch.autograd.grad((each * weights).sum(), (rows, weight, bias))
    head = Head(weight.detach(), bias.detach(), scale, trained=(weight, bias))
    loss, found = weighted_loss(rows, head, targets, weights, temperature)
    loss.backward()
    assert torch.allclose(found, each)
    assert torch.allclose(loss, (each * weights).sum())
    assert torch.allclose(cross_entropies(rows.detach(), head, targets, temperature), each)
    for one, gradient in zip((rows, weight, bias), wanted, strict=True):
        assert torch.allclose(one.grad, gradient)


def test_logits_far_from_zero_and_half_precision_stay_finite() -> None:
    rows, weight, _, targets, weights = drawn(torch.float32)
    far = (rows * 1e4).detach().requires_grad_()
    loss, each = weighted_loss(far, Head(weight.detach()), targets, weights)
    loss.backward()
    assert each.isfinite().all()
    assert far.grad is not None
    assert far.grad.isfinite().all()
    half = rows.detach().bfloat16().requires_grad_()
    loss, each = weighted_loss(half, Head(weight.detach().bfloat16()), targets, weights)
    loss.backward()
    assert each.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_no_labels_have_no_loss_and_the_graph_keeps_no_logits() -> None:
    rows, weight, _, targets, weights = drawn(torch.float32)
    head = Head(weight.detach())
    assert cross_entropies(rows[:0], head, targets[:0]).shape == (0,)
    assert saved_bytes(lambda: weighted_loss(rows, head, targets, weights)) == rows.nbytes

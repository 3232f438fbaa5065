"""The cross-entropy of labels whose weights are known before the pass, without the logits of all labels at once.

The gradient of sum(weight * cross-entropy) by the logits is weight * (softmax - one-hot): nothing of the backward pass
is needed for it. So each chunk of rows computes its logits, its losses and its part of the gradients by the rows and by
the head, and frees the logits. Memory is that of one chunk, whatever the number of labels and of words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.training import policy_memory

CHUNK_NUMBERS = {"cpu": policy_memory.CPU_CHUNK_NUMBERS}


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: logits = scale * (weight x + bias). `weight` [vocabulary, width], as the model computes it.

    `trained`: the parameters whose gradients are accumulated, (weight, bias); None when the head is frozen.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    trained: tuple[torch.Tensor, torch.Tensor | None] | None = None


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """The rows of a chunk of labels on this device."""
    return max(16, CHUNK_NUMBERS.get(device.type, policy_memory.CHUNK_NUMBERS) // vocabulary)


def weighted_loss(
    rows: torch.Tensor, head: Head, targets: torch.Tensor, weights: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of weights * cross-entropy of logits / temperature, and the cross-entropies [n] without gradient.

    rows [n, width], targets and weights [n]. A backward pass gives the rows their gradient. That of a trained head is
    accumulated at once in its `grad`, so call it only where a backward pass with the gradient 1 follows.
    """
    loss, each = _WeightedLoss.apply(rows.to(head.weight.dtype), head, targets, weights, temperature)
    return loss, each


@torch.no_grad()  # type: ignore[untyped-decorator]
def cross_entropies(rows: torch.Tensor, head: Head, targets: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The cross-entropies [n] of logits / temperature."""
    found = [each for _, _, each, _, _ in _chunks(rows.to(head.weight.dtype), head, targets, temperature)]
    return torch.cat(found) if found else rows.new_zeros(0, dtype=_wide(rows.dtype))


class _WeightedLoss(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, head: Head, targets: torch.Tensor, weights: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        of_rows = torch.empty_like(rows)
        found = weights.new_zeros(len(rows), dtype=_wide(rows.dtype))
        for start, end, each, shares, of_logits in _chunks(rows, head, targets, temperature):
            found[start:end] = each
            shares.scatter_add_(1, targets[start:end, None], shares.new_full((end - start, 1), -1.0))
            shares.mul_(weights[start:end, None] * (head.scale / temperature))
            if of_logits.dtype != shares.dtype:
                of_logits.copy_(shares)
            torch.mm(of_logits, head.weight, out=of_rows[start:end])
            if head.trained:
                _accumulate(head.trained, of_logits, rows[start:end])
        ctx.save_for_backward(of_rows)
        ctx.mark_non_differentiable(found)
        return (found * weights).sum(), found

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, None, None, None, None]:
        (of_rows,) = ctx.saved_tensors
        return of_rows * grad.to(of_rows.dtype), None, None, None, None


def _chunks(
    rows: torch.Tensor, head: Head, targets: torch.Tensor, temperature: float
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each chunk: its first row and its end, the cross-entropies, the softmax [chunk, vocabulary] in fp32, and
    memory of that shape in the model's type: the softmax itself where that is fp32.

    All chunks use the same memory.
    """
    size = min(chunk_rows(len(head.weight), rows.device), len(rows))
    whole = rows.new_empty(size, len(head.weight))
    wide = whole if whole.dtype == _wide(whole.dtype) else torch.empty_like(whole, dtype=_wide(whole.dtype))
    for start in range(0, len(rows), max(1, size)):
        end = min(start + size, len(rows))
        small, logits = whole[: end - start], wide[: end - start]
        torch.mm(rows[start:end], head.weight.t(), out=small)
        if head.bias is not None:
            small += head.bias
        if logits.dtype != small.dtype:
            logits.copy_(small)
        logits.mul_(head.scale / temperature)
        of_target = logits.gather(1, targets[start:end, None])[:, 0]
        largest = logits.amax(1)
        total = logits.sub_(largest[:, None]).exp_().sum(1)
        yield start, end, total.log() + largest - of_target, logits.div_(total[:, None]), small


def _accumulate(trained: tuple[torch.Tensor, torch.Tensor | None], of_logits: torch.Tensor, rows: torch.Tensor) -> None:
    """Add the gradients of the head's parameters."""
    weight, bias = trained
    for one in (weight, bias):
        if one is not None and one.grad is None:
            one.grad = torch.zeros_like(one)
    if weight.grad.dtype == of_logits.dtype:
        weight.grad.addmm_(of_logits.t(), rows)
    else:
        weight.grad += of_logits.t() @ rows
    if bias is not None:
        bias.grad += of_logits.sum(0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32

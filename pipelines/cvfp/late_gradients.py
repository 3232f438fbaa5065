"""Gradients of weights that are used at every token of a pass through time, by one product after the backward pass.

Autograd makes a gradient as large as the weights for each use, and adds them up. For W x of T tokens with B rows each,
that is T products over B rows; what is kept here until the end, all x and the gradients of all W x, makes one over T B.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

Kept = list[tuple[torch.Tensor, torch.Tensor]]


class LateGradients:
    """A linear layer as `torch.nn.functional.linear` is, whose weights have their `grad` after `finish`."""

    def __init__(self) -> None:
        self._kept: dict[tuple[torch.Tensor, torch.Tensor], Kept] = {}

    def __call__(self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """weight rows + bias, of rows [B, width]."""
        kept = self._kept.setdefault((weight, bias), [])
        found: torch.Tensor = _Late.apply(rows, weight.detach(), bias.detach(), kept)
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Set the gradients of all weights and biases that had none."""
        for (weight, bias), kept in self._kept.items():
            if kept:
                of_rows = torch.cat([one for _, one in kept])
                rows = torch.cat([one for one, _ in kept])
                kept.clear()
                weight.grad, bias.grad = of_rows.t() @ rows, of_rows.sum(0)


class _Late(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kept: Kept) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.kept = kept
        return F.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, of_rows: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows, weight = ctx.saved_tensors
        ctx.kept.append((rows, of_rows))
        return of_rows @ weight, None, None, None

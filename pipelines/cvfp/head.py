"""The head in a step of phase 2: the loss, the gradient of what it reads, and its own step.

The gradient of its matrix W [V, d] is E^T H, of the rows H [n, d] that it reads and the errors E [n, V] =
(softmax - one-hot) / n. Of the two that are as large as the vocabulary, the smaller is held. With fewer rows than d
these are the errors: W then takes its step a few rows at a time, and the gradient is never there as a whole. Its norm,
which clipping asks for before any step, is |E^T H|^2 = sum of (E E^T) * (H H^T), elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from hybrid.training.label_loss import Head, weighted_loss
from pipelines.cvfp.adam import Adam
from pipelines.cvfp.model import Model
from pipelines.cvfp.shape import holds_errors

ROWS = 4096
"""Rows of W whose gradient is there at once."""
AT_ONCE = 8
"""Rows of logits that are turned to errors at once: they stay in a processor's cache."""
STRIPS = 4
"""Of the rows of E E^T, of which the lower triangle is computed."""


class HeadPass(Protocol):
    """What a head made of n rows: the mean loss, the gradient of the rows [n, d], and the squared norm of its own."""

    loss: float
    of_rows: torch.Tensor
    square: float

    def step(self, adam: Adam, factor: float, learning_rate: float) -> None:
        """The head's step with its gradients times `factor`, or these gradients, left for `adam.step`.

        Its weight and bias stand first in `adam`.
        """


def head_pass(model: Model, rows: torch.Tensor, targets: torch.Tensor) -> HeadPass:
    """The loss of `targets` [n] after `rows` [n, d], without history."""
    held = model.head is not None and holds_errors(*rows.shape)
    return _HeldErrors(model, rows, targets) if held else _HeldGradient(model, rows, targets)


class _HeldErrors:
    """The errors are held, and the gradient of the matrix is made a few of its rows at a time."""

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def __init__(self, model: Model, rows: torch.Tensor, targets: torch.Tensor) -> None:
        self._rows = rows
        weight, bias = model.head_weights()
        self._errors = rows.new_empty(len(rows), len(weight))
        self.loss = _errors(self._errors, rows, (weight, bias), targets)
        self.of_rows = self._errors @ weight
        self._of_bias = self._errors.sum(0)
        self.square = _square(self._errors, rows) + float(self._of_bias.double().square().sum())

    def step(self, adam: Adam, factor: float, learning_rate: float) -> None:
        """Its rows one after the other."""
        scaled, whole = self._rows * factor, self._errors.shape[1]
        gradient = scaled.new_empty(min(ROWS, whole), scaled.shape[1])
        for start in range(0, whole, ROWS):
            rows = slice(start, min(start + ROWS, whole))
            some = torch.mm(self._errors[:, rows].t(), scaled, out=gradient[: rows.stop - start])
            adam.step_rows(0, rows, some, learning_rate)
        adam.count(0)
        adam.step_rows(1, slice(None), self._of_bias * factor, learning_rate)
        adam.count(1)


class _HeldGradient:
    """The gradient is held, and the errors of a few rows at a time. A tied head has none."""

    def __init__(self, model: Model, rows: torch.Tensor, targets: torch.Tensor) -> None:
        weight, bias = model.head_weights()
        self._parts = [] if model.head is None else [weight, bias]
        head = Head(
            weight.detach(),
            None if bias is None else bias.detach(),
            trained=None if model.head is None else (weight, bias),
        )
        read = rows.detach().requires_grad_()
        weights = torch.full((len(targets),), 1 / len(targets), dtype=rows.dtype, device=rows.device)
        loss, _ = weighted_loss(read, head, targets, weights)
        loss.backward()
        self.loss, self.of_rows = float(loss.detach()), read.grad
        self.square = squared_norm(self._parts)

    def step(self, adam: Adam, factor: float, learning_rate: float) -> None:
        """Its gradients are left."""
        scale_gradients(self._parts, factor)


def squared_norm(parameters: Sequence[torch.Tensor]) -> float:
    """The sum of the squares of all gradients."""
    norms = [one.grad.norm() for one in parameters if one.grad is not None]
    return float(torch.stack(norms).double().square().sum()) if norms else 0.0


def scale_gradients(parameters: Sequence[torch.Tensor], factor: float) -> None:
    """Multiply the gradients."""
    for one in parameters:
        if factor != 1 and one.grad is not None:
            one.grad.mul_(factor)


def _errors(
    into: torch.Tensor, rows: torch.Tensor, head: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor
) -> float:
    """Write the errors [n, V] of all rows, over n. The mean cross-entropy."""
    weight, bias = head
    torch.mm(rows, weight.t(), out=into)
    losses = []
    size = AT_ONCE if rows.device.type == "cpu" else len(rows)
    for logits, wanted in zip(into.split(size), targets.split(size), strict=True):
        logits.add_(bias)
        of_target, largest = logits.gather(1, wanted[:, None])[:, 0], logits.amax(1)
        total = logits.sub_(largest[:, None]).exp_().sum(1)
        losses.append(total.log() + largest - of_target)
        logits.mul_(1 / (total[:, None] * len(rows)))
        logits.scatter_add_(1, wanted[:, None], logits.new_full((len(wanted), 1), -1 / len(rows)))
    return float(torch.cat(losses).mean())


def _square(errors: torch.Tensor, rows: torch.Tensor) -> float:
    """The squared norm of errors^T rows."""
    size, found = max(1, -(-len(rows) // STRIPS)), 0.0
    for start in range(0, len(rows), size):
        end = min(start + size, len(rows))
        both = (errors[start:end] @ errors[:end].t()).double() * (rows[start:end] @ rows[:end].t()).double()
        found += float(2 * both[:, :start].sum() + both[:, start:].sum())
    return found if math.isnan(found) else max(found, 0.0)

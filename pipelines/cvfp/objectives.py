"""What phase 1 minimises: contexts that stay what they were in the sweep before, and differ from each other."""

from __future__ import annotations

from typing import Literal

import torch

Objective = Literal["variance-covariance", "mean-deviation", "guide", "guide-unguarded"]
"""- `variance-covariance`: each number varies, and numbers do not vary together (VICReg: Bardes and others 2022);
- `mean-deviation`: contexts are far from their mean;
- `guide-unguarded`: the guide's, with normalised contexts and a running mean;
- `guide`: the same as published, which steps only when the loss is above 0, and it never is.
"""
HINGE = 25.0
"""Weight of the variance beside the covariance."""


def change_loss(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The mean squared change of contexts [..., d] since the sweep before, which has no gradient."""
    return (now - before.detach()).square().mean()


def normalised_change_loss(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The guide's: of contexts scaled to length 1, so that it is 2 (1 - cos) / d, and 4 / d at most."""
    scaled = [torch.nn.functional.normalize(one, dim=-1) for one in (now, before.detach())]
    return (scaled[0] - scaled[1]).square().mean()


def variance_covariance(contexts: torch.Tensor) -> torch.Tensor:
    """The hinge of each number's standard deviation at 1, and the squared covariances of different numbers over d."""
    rows = contexts.reshape(-1, contexts.shape[-1])
    centred = rows - rows.mean(0)
    deviation = (centred.square().mean(0) + 1e-4).sqrt()
    covariance = centred.T @ centred / max(1, len(rows) - 1)
    between = covariance.square().sum() - covariance.diagonal().square().sum()
    return between / rows.shape[1] + HINGE * (1 - deviation).clamp(min=0).mean()


def mean_deviation(contexts: torch.Tensor) -> torch.Tensor:
    """Minus the mean distance to the mean context, over the root of d."""
    rows = contexts.reshape(-1, contexts.shape[-1])
    return -(rows - rows.mean(0)).norm(dim=-1).mean() / rows.shape[1] ** 0.5

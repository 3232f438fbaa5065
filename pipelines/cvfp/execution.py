"""Contexts of documents: exactly, one token after the other, or all at once from those of the sweep before.

Documents are independent: each begins with the context 0. So the exact contexts of many documents take as many steps
as the longest has tokens, each with all documents as a batch.
"""

from __future__ import annotations

import torch

from pipelines.cvfp.model import Model


def exact(model: Model, tokens: torch.Tensor, start: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts and written token vectors [B, T, d] of documents whose embedded tokens are [B, T, d].

    `start`: the contexts [B, d] before the first token, 0 without it.
    """
    context = tokens.new_zeros(tokens.shape[0], tokens.shape[2]) if start is None else start
    contexts, written = [], []
    for place in range(tokens.shape[1]):
        context, token = model.step(context, tokens[:, place])
        contexts.append(context)
        written.append(token)
    return torch.stack(contexts, 1), torch.stack(written, 1)


def shifted(contexts: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """The contexts [B, T, d] that each token begins with: its predecessor's, and `start` or 0 at the first."""
    first = torch.zeros_like(contexts[:, :1]) if start is None else start[:, None]
    return torch.cat([first, contexts[:, :-1]], 1)


def sweep(model: Model, tokens: torch.Tensor, previous: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One Jacobi sweep: all tokens at once, each from its predecessor's context of the sweep before.

    After k sweeps the first k tokens of each document are exact.
    """
    context, written = model.step(shifted(previous), tokens)
    return context, written

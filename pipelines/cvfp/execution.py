"""Contexts of documents: exactly, one token after the other, or all at once from those of the sweep before.

Documents are independent: each begins with the context 0. So the exact contexts of many documents take as many steps
as the longest has tokens, each with all documents as a batch. Where the pieces of all documents are one stream instead,
a piece begins with what the tokens before it leave behind, which fades where the network contracts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812

from pipelines.cvfp.model import Linear, Model

TOLERANCE = 1e-3
"""What is left of a wrong context's error where a piece of a stream begins."""
MOST_BURN_IN = 4096
"""Tokens that a piece of a stream is begun with, at most."""


def exact(
    model: Model, tokens: torch.Tensor, start: torch.Tensor | None = None, linear: Linear = F.linear
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts and written token vectors [B, T, d] of documents whose embedded tokens are [B, T, d].

    `start`: the contexts [B, d] before the first token, 0 without it.
    """
    context = tokens.new_zeros(tokens.shape[0], tokens.shape[2]) if start is None else start
    contexts, written = [], []
    for place in range(tokens.shape[1]):
        context, token = model.step(context, tokens[:, place], linear)
        contexts.append(context)
        written.append(token)
    return torch.stack(contexts, 1), torch.stack(written, 1)


def shifted(contexts: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """The contexts [B, T, d] that each token begins with: its predecessor's, and `start` or 0 at the first."""
    first = torch.zeros_like(contexts[:, :1]) if start is None else start[:, None]
    return torch.cat([first, contexts[:, :-1]], 1)


def sweep(
    model: Model, tokens: torch.Tensor, previous: torch.Tensor, start: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One Jacobi sweep: all tokens at once, each from its predecessor's context of the sweep before.

    After k sweeps the first k tokens of each document are exact, if `start` [B, d] is (0 without it).
    """
    context, written = model.step(shifted(previous, start), tokens)
    return context, written


def burn_in(growth: float) -> int:
    """Tokens before a place after which a wrong context's error has become TOLERANCE of itself: growth^m.

    Raises ValueError where a change grows, since then no number of tokens is enough, or where they are too many.
    """
    if growth >= 1:
        raise ValueError(f"a change of the context grows {growth:.3f} times a token, so what came before never fades")
    needed = math.ceil(math.log(TOLERANCE) / math.log(max(growth, 1e-6)))
    if needed > MOST_BURN_IN:
        raise ValueError(f"with a growth of {growth:.4f} a token it takes {needed:,} tokens for the past to fade")
    return needed


@torch.no_grad()  # type: ignore[untyped-decorator]
def starts(model: Model, ids: torch.Tensor, pieces: Sequence[int], tokens: int) -> torch.Tensor:
    """The contexts [B, d] that `pieces` of the stream `ids` [N, T] begin with, from as many tokens before each.

    The first of these begins with the context 0; so does the stream.
    """
    stream = ids.flatten()
    ends = torch.tensor(list(pieces), device=ids.device) * ids.shape[1]
    context = torch.zeros(len(ends), model.shape.width, device=ids.device)
    for back in range(min(tokens, int(ends.max())), 0, -1):
        places = ends - back
        stepped, _ = model.step(context, model.embedded(stream[places.clamp(min=0)]))
        context = torch.where((places >= 0)[:, None], stepped, context)
    return context

"""The model: a token vector and a context that every block rewrites together.

One block, with context c and token vector x of d numbers each: h = ReLU(W [c; x] + b), whose halves are the changes of
both; c <- LN(c + h_c), x <- LN(x + h_x). The context of a token is what its predecessor's blocks made of theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from pipelines.cvfp.shape import Shape

Linear = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""weight x + bias, of x, weight and bias."""
BIAS = 0.01
"""Standard deviation of the first biases."""


class Block(nn.Module):  # type: ignore[misc]
    """One block of vectors of `width` numbers. `gain`: standard deviation of the first weights."""

    def __init__(self, width: int, gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.randn(2 * width, 2 * width, generator=generator) * gain)
        self.bias = nn.Parameter(torch.randn(2 * width, generator=generator) * BIAS)
        self.context_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, context: torch.Tensor, token: torch.Tensor, linear: Linear = F.linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next context and token vector [..., width]."""
        hidden = F.relu(linear(torch.cat([context, token], -1), self.weight, self.bias))
        changed, written = hidden.split(self.width, -1)
        return self.context_norm(context + changed), self.token_norm(token + written)


class Model(nn.Module):  # type: ignore[misc]
    """Embedding, blocks and head. The embedding [vocabulary, width] is given and never trained.

    `seed`: of the first weights of blocks and head. The head reads the token vector that the blocks have written, with
    `shape.both` beside the context that they have.
    """

    def __init__(self, shape: Shape, embedding: torch.Tensor, gain: float, seed: int) -> None:
        super().__init__()
        if embedding.shape != (shape.vocabulary, shape.width):
            raise ValueError(f"the embedding is {list(embedding.shape)}, not {[shape.vocabulary, shape.width]}")
        generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        self.embedding = nn.Parameter(embedding.clone(), requires_grad=False)
        self.norm = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, gain, generator) for _ in range(shape.layers))
        self.head = None
        if not shape.tied:
            self.head = nn.Linear(shape.read, shape.vocabulary)
            nn.init.normal_(self.head.weight, std=shape.read**-0.5, generator=generator)
            nn.init.zeros_(self.head.bias)

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """The normalised vectors [..., width] of tokens."""
        found: torch.Tensor = self.norm(F.embedding(ids, self.embedding))
        return found

    def step(
        self, context: torch.Tensor, token: torch.Tensor, linear: Linear = F.linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The contexts and token vectors [..., width] after all blocks: F of a fixed point."""
        for block in self.blocks:
            context, token = block(context, token, linear)
        return context, token

    def rows(self, context: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """What the head reads [..., read] of the contexts and token vectors after all blocks."""
        return torch.cat([context, token], -1) if self.shape.both else token

    def head_weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The matrix [vocabulary, read] and bias of the head."""
        return (self.embedding, None) if self.head is None else (self.head.weight, self.head.bias)

"""Attention over short texts on a CPU, in products over rectangles of texts, with their gradients.

torch's kernel for a CPU is made for long texts: for texts of ten tokens, most of its time goes into what surrounds the
products of each head. Here all heads of all texts of a rectangle are one batch of small matrices. The weights of
attention, the square of a text's length, are kept for the backward pass, so that this is for short texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

LONGEST = 64
"""The longest text for which this is faster: at 64 tokens by a tenth, at 10 by a third, at 128 it is slower."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The matrices of all heads of a rectangle's texts, from number `start` on of the rows of all rectangles.

    `beyond` [texts, 1, 1, longest] is true for padding, None where there is none.
    """

    start: int
    texts: int
    longest: int
    beyond: torch.Tensor | None

    def of(self, rows: torch.Tensor, heads: int) -> torch.Tensor:
        """The batch's part of rows [n, width] -> [texts * heads, longest, width]."""
        end = self.start + self.texts * heads * self.longest
        return rows[self.start : end].view(self.texts * heads, self.longest, -1)

    def weights(self, query: torch.Tensor, key: torch.Tensor, heads: int, *, causal: bool) -> torch.Tensor:
        """The weights of attention [texts * heads, longest, longest] of a scaled query."""
        scores = torch.bmm(query, key.transpose(1, 2))
        if causal:  # padding stands behind a text: no token before attends to it
            scores.masked_fill_(scores.new_ones(self.longest, self.longest, dtype=torch.bool).triu(1), -torch.inf)
        elif self.beyond is not None:
            scores.view(self.texts, heads, self.longest, self.longest).masked_fill_(self.beyond, -torch.inf)
        return torch.softmax(scores, dim=-1)


@dataclass(frozen=True, slots=True)
class HeadRows:
    """How the rows of a pack's heads, [T * heads, width], are laid out as batches of matrices, and back.

    `rows` [n] is the row of the pack for each row of the batches, a text's last one for padding; `places` [T * heads]
    is the way back; `padding` are the rows of the batches that are none.
    """

    heads: int
    batches: tuple[Batch, ...]
    rows: torch.Tensor
    places: torch.Tensor
    padding: torch.Tensor


def head_rows(rectangles: Sequence[tuple[int, int, torch.Tensor, torch.Tensor | None]], heads: int) -> HeadRows:
    """`rectangles`: texts, the longest one's length, their rows [texts * longest] in the pack, and which are real
    [texts, 1, 1, longest], None for all.
    """
    batches, rows, kept, start = [], [], [], 0
    head = torch.arange(heads)[:, None]
    for texts, longest, of_texts, real in rectangles:
        rows.append((of_texts.view(texts, 1, longest) * heads + head).flatten())
        marks = torch.ones(texts, 1, 1, longest, dtype=torch.bool) if real is None else real
        kept.append(marks[:, 0].expand(texts, heads, longest).flatten())
        batches.append(Batch(start, texts, longest, None if real is None else ~real))
        start += texts * heads * longest
    of_all, real_rows = torch.cat(rows), torch.cat(kept)
    places = torch.empty(int(real_rows.sum()), dtype=torch.long)
    places[of_all[real_rows]] = real_rows.nonzero()[:, 0]
    return HeadRows(heads, tuple(batches), of_all, places, (~real_rows).nonzero()[:, 0])


class ShortAttention(torch.autograd.Function):  # type: ignore[misc]
    """query, key and value [T, heads, width] -> [T, heads, width]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: HeadRows,
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        heads, width = layout.heads, query.shape[-1]
        q, k, v = (one.reshape(-1, width).index_select(0, layout.rows) for one in (query, key, value))
        q.mul_(scale)
        found, kept = torch.empty_like(q), []
        for batch in layout.batches:
            weights = batch.weights(batch.of(q, heads), batch.of(k, heads), heads, causal=causal)
            torch.bmm(weights, batch.of(v, heads), out=batch.of(found, heads))
            kept.append(weights)
        ctx.layout, ctx.scale = layout, scale
        ctx.save_for_backward(q, k, v, *kept)
        return found.index_select(0, layout.places).view(-1, heads, width)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Padding gets no gradient: nothing reads what it answers, and nothing but itself attends to it."""
        q, k, v, *kept = ctx.saved_tensors
        layout, heads, width = ctx.layout, ctx.layout.heads, q.shape[-1]
        given = grad.reshape(-1, width).index_select(0, layout.rows).index_fill_(0, layout.padding, 0.0)
        of_q, of_k, of_v = (torch.empty_like(q) for _ in range(3))
        for batch, weights in zip(layout.batches, kept, strict=True):
            grads = batch.of(given, heads)
            torch.bmm(weights.transpose(1, 2), grads, out=batch.of(of_v, heads))
            of_weights = torch.bmm(grads, batch.of(v, heads).transpose(1, 2))
            of_scores = of_weights.sub_((of_weights * weights).sum(dim=-1, keepdim=True)).mul_(weights)
            torch.bmm(of_scores, batch.of(k, heads), out=batch.of(of_q, heads))
            torch.bmm(of_scores.transpose(1, 2), batch.of(q, heads), out=batch.of(of_k, heads))
        of_q.mul_(ctx.scale)
        found = (one.index_select(0, layout.places).view(-1, heads, width) for one in (of_q, of_k, of_v))
        return *found, None, None, None

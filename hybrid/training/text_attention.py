"""Attention over a pack of short texts that classifiers read: a few rectangles of texts of similar length.

It is registered with transformers as an attention function. The rows of a pack lie one behind the other without
padding; only attention, a small part of the work for short texts, sees them as padded rectangles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from hybrid.errors import CannotRun
from hybrid.training.short_attention import LONGEST, HeadRows, ShortAttention, head_rows

NAME = "hybrid_texts"
WASTE = 2
"""The longest text of a rectangle has less than this times the tokens of its shortest."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Texts of similar length: `rows` [texts * longest] are their rows in the pack.

    A text's padding repeats its last row, so that nothing of one text, not even a NaN, reaches another.

    `real` [texts, 1, 1, longest] is true for tokens, None where nothing is padded.
    """

    texts: int
    longest: int
    rows: torch.Tensor
    real: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class TextLayout:
    """The rectangles of a pack. `places` [T] are the rows of the pack in the concatenated rectangles."""

    rectangles: tuple[Rectangle, ...]
    places: torch.Tensor
    longest: int
    first_only: bool = False
    """Only the first token of each text asks: of the others' queries nothing is read, and nothing is answered."""
    of_heads: dict[int, HeadRows] = field(default_factory=dict, compare=False)

    def by_head(self, heads: int) -> HeadRows:
        """The rows of `heads` heads; all layers share them."""
        if heads not in self.of_heads:
            parts = [(one.texts, one.longest, one.rows, one.real) for one in self.rectangles]
            self.of_heads[heads] = head_rows(parts, heads)
        return self.of_heads[heads]


_layout: ContextVar[TextLayout] = ContextVar("text_layout")


@contextmanager
def text_layout(layout: TextLayout) -> Iterator[None]:
    """Attention inside the block uses this layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def layout_of(lengths: Sequence[int], device: torch.device) -> TextLayout:
    """The layout of consecutive texts with these lengths, each at least 1."""
    starts = [0, *accumulate(lengths)]
    order = sorted(range(len(lengths)), key=lambda text: lengths[text])
    groups: list[list[int]] = []
    for text in order:
        if groups and lengths[text] < WASTE * lengths[groups[-1][0]]:
            groups[-1].append(text)
        else:
            groups.append([text])
    places = torch.empty(starts[-1], dtype=torch.long)
    rectangles, offset = [], 0
    for group in groups:
        longest = lengths[group[-1]]
        sizes, first = (torch.tensor([values[text] for text in group]) for values in (lengths, starts))
        column = torch.arange(longest)
        real = column < sizes[:, None]
        rows = first[:, None] + torch.minimum(column, sizes[:, None] - 1)
        places[rows[real]] = offset + real.flatten().nonzero()[:, 0]
        offset += len(group) * longest
        mask = None if bool(real.all()) else real[:, None, None].to(device)
        rectangles.append(Rectangle(len(group), longest, rows.flatten().to(device), mask))
    return TextLayout(tuple(rectangles), places.to(device), max(lengths, default=0))


def text_attention(  # noqa: PLR0913  (transformers decides what it is called with)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, width], key and value [1, shared heads, T, width] -> [1, T, heads, width].

    Tokens attend to all tokens of their text, or to those before them where the module is causal. Raises CannotRun for
    features that are not supported.
    """
    layout = _layout.get()
    windowed = sliding_window is not None and layout.longest > sliding_window
    if softcap or s_aux is not None or dropout or attention_mask is not None or windowed:
        raise CannotRun(
            f"{type(module).__name__} caps, drops or masks attention in a way that classifiers do not know",
            hint="take another model: BERT, DistilBERT, RoBERTa and GPT-2 work",
        )
    causal, shared = bool(module.is_causal), query.shape[1] != key.shape[1]
    rows = [one[0].transpose(0, 1) for one in (query, key, value)]
    if layout.first_only:
        return _of_first_tokens(layout, rows, scaling)[None], None
    if query.requires_grad and query.device.type == "cpu" and not shared and layout.longest <= LONGEST:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return ShortAttention.apply(*rows, layout.by_head(query.shape[1]), scale, causal)[None], None
    found = []
    for one in layout.rectangles:
        shape = one.texts, one.longest, -1, query.shape[-1]
        q, k, v = (each.index_select(0, one.rows).view(shape).transpose(1, 2) for each in rows)
        mask = None if causal else one.real  # padding stands behind a text: no token before it attends to it
        part = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=shared
        )
        found.append(part.transpose(1, 2).flatten(0, 1))
    joined = found[0] if len(found) == 1 else torch.cat(found)
    return joined.index_select(0, layout.places)[None], None


def _of_first_tokens(layout: TextLayout, rows: Sequence[torch.Tensor], scaling: float | None) -> torch.Tensor:
    """Queries, keys and values [T, heads, width] of an encoder -> [T, heads, width], zero but for first tokens."""
    answers = rows[0].new_zeros(rows[0].shape)
    for one in layout.rectangles:
        shape = one.texts, one.longest, -1, answers.shape[-1]
        first = one.rows.view(one.texts, one.longest)[:, 0]
        k, v = (each.index_select(0, one.rows).view(shape).transpose(1, 2) for each in rows[1:])
        q = rows[0].index_select(0, first)[:, :, None]
        part = F.scaled_dot_product_attention(
            q, k, v, attn_mask=one.real, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        answers = answers.index_copy(0, first, part[:, :, 0])
    return answers


AttentionInterface.register(NAME, text_attention)

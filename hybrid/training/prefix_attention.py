"""Attention over a pack in which texts share prompts: a prompt is computed once, each continuation attends to it.

A pack is a row of segments: of a prompt, whose tokens attend to those before them in it, and of continuations, whose
tokens attend to all of their prompt and to those before them in their own segment. It is registered with transformers
as an attention function. A prompt is one call of torch's attention, and all of its continuations another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from hybrid.errors import CannotRun
from hybrid.training.attention import ALIGNED, must_expand

NAME = "hybrid_prefix"


class Segment(NamedTuple):
    """`length` rows of a pack from `start` on, which also attend to all of `before` rows from `prompt` on."""

    start: int
    length: int
    prompt: int = 0
    before: int = 0


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Segments with the same prompt, or one without.

    `queries` [segments * longest] and `keys` [segments * (before + longest)]: rows of the pack; beyond a segment's end
    its last one, whose output nobody reads.
    """

    segments: int
    longest: int
    before: int
    queries: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefixLayout:
    """The segments of a pack as rectangles; `places` [T]: of each row in their joined outputs. `longest`: text."""

    rectangles: Sequence[Rectangle]
    places: torch.Tensor
    longest: int
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict, compare=False)

    def mask(self, like: torch.Tensor, rows: int, before: int, window: int) -> torch.Tensor:
        """What is added to the scores [rows, before + rows]: 0 for the `window` keys up to a row's own, else -inf.

        All layers share it. Its rows are aligned for the memory-efficient kernel.
        """
        about = rows, before, window
        if about not in self.masks:
            keys = before + rows
            columns = -(-keys // ALIGNED) * ALIGNED
            row, column = (torch.arange(size, device=like.device) for size in (rows, columns))
            distance = row[:, None] + before - column[None]
            hidden = (distance < 0) | (distance >= window)
            self.masks[about] = like.new_zeros(rows, columns).masked_fill_(hidden, -torch.inf)[:, :keys]
        return self.masks[about]


_layout: ContextVar[PrefixLayout] = ContextVar("prefix_layout")


def layout_of(segments: Sequence[Segment], device: torch.device) -> PrefixLayout:
    """The layout of segments that are all rows of a pack, in order; those of a prompt are adjacent."""
    rectangles, places, filled = [], [], 0
    for (prompt, before), found in groupby(enumerate(segments), key=_of_prompt):
        part = [one for _, one in found if one.length]
        if not part:
            continue
        starts, lengths = (torch.tensor(one) for one in ([s.start for s in part], [s.length for s in part]))
        longest = int(lengths.max())
        column = torch.arange(longest)[None]
        rows = starts[:, None] + torch.minimum(column, lengths[:, None] - 1)
        shared = torch.arange(prompt, prompt + before).expand(len(part), -1)
        places.append(filled + (column < lengths[:, None]).flatten().nonzero()[:, 0])
        filled += rows.numel()
        keys = torch.cat([shared, rows], dim=1).flatten()
        rectangles.append(Rectangle(len(part), longest, before, rows.flatten().to(device), keys.to(device)))
    whole = max((one.before + one.length for one in segments), default=0)
    return PrefixLayout(rectangles, torch.cat(places).to(device), whole)


def _of_prompt(numbered: tuple[int, Segment]) -> tuple[int, int]:
    """What adjacent segments share that are one rectangle: the prompt; a segment without one is on its own."""
    number, segment = numbered
    return (segment.prompt, segment.before) if segment.before else (-1 - number, 0)


@contextmanager
def prefix_layout(layout: PrefixLayout) -> Iterator[None]:
    """Attention inside the block uses this layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def prefix_attention(  # noqa: PLR0913  (transformers decides what it is called with)
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

    Raises CannotRun for features that are not supported.
    """
    if softcap or s_aux is not None or dropout or attention_mask is not None:
        raise CannotRun(
            f"{type(module).__name__} caps, drops or masks attention in a way that packed training does not know",
            hint="train another model: Llama, SmolLM, Qwen, Mistral and GPT-2 work",
        )
    layout = _layout.get()
    window = sliding_window if sliding_window is not None and layout.longest > sliding_window else None
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    found = [_attend(one, q, k, v, layout, scaling, window) for one in layout.rectangles]
    joined = found[0] if len(found) == 1 else torch.cat(found)
    return joined.index_select(0, layout.places)[None], None


def _attend(
    one: Rectangle,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PrefixLayout,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    """The outputs [segments * longest, heads, width] of a rectangle; query, key and value [T, heads, width]."""
    masked = bool(one.before) or window is not None
    q = query.index_select(0, one.queries).view(one.segments, one.longest, *query.shape[1:]).transpose(1, 2)
    k, v = (
        part.index_select(0, one.keys).view(one.segments, -1, *part.shape[1:]).transpose(1, 2) for part in (key, value)
    )
    shared = q.shape[1] != k.shape[1]
    if shared and must_expand(q.device, q.shape[-1], masked=masked):
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
        shared = False
    mask = layout.mask(q, one.longest, one.before, window or layout.longest + 1) if masked else None
    found = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=not masked, scale=scale, enable_gqa=shared
    )
    return found.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(NAME, prefix_attention)

"""Attention over a pack: several texts behind one another, of which none sees another.

Registered with transformers as one of its attention functions, so no model code is copied. On GPUs from Ampere on the
pack goes to torch's variable-length kernel in one call; elsewhere each text is a call of its own. Neither computes or
stores anything for pairs of tokens of different texts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface

from hybrid.errors import CannotRun

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older release of torch
    varlen_attn = None

LOG = logging.getLogger("hybrid")
NAME = "hybrid_packed"
MOST_WIDTH = 256
"""Widest head of the variable-length kernel."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How texts lie in a pack: their lengths, and how many tokens at the end of each are padding (SEAL's)."""

    lengths: tuple[int, ...]
    padding: tuple[int, ...]
    ends: torch.Tensor | None = None  # int32 [texts + 1] on the GPU, when the one-call kernel is used


_layout: ContextVar[Layout] = ContextVar("layout")


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Attention inside the block sees this layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


def packed_attention(  # noqa: PLR0913  (transformers decides what it is called with)
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

    The signature is that of transformers' attention functions. Raises CannotRun for what a model asks beyond it.
    """
    if softcap or s_aux is not None or dropout or attention_mask is not None:
        raise CannotRun(
            f"{type(module).__name__} caps, drops or masks attention in a way that packed training does not know",
            hint="train another model: Llama, SmolLM, Qwen and Mistral work",
        )
    layout = _layout.get()
    if layout.ends is not None and sliding_window is None and query.shape[-1] <= MOST_WIDTH:
        return _one_call(query, key, value, layout, scaling), None
    # Cut as [1, T, heads, width], the order of the layers before and after: then nothing is copied into another order.
    cut = (one.transpose(1, 2).split(layout.lengths, dim=1) for one in (query, key, value))
    texts = zip(*([one.transpose(1, 2) for one in parts] for parts in cut), layout.padding, strict=True)
    found = [_one_text(q, k, v, padding, sliding_window, scaling) for q, k, v, padding in texts]
    return torch.cat([one.transpose(1, 2) for one in found], dim=1), None


def _one_text(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, padding: int, window: int | None, scale: float | None
) -> torch.Tensor:
    shared = query.shape[1] != key.shape[1]
    length = query.shape[2]
    if not padding and (window is None or length <= window):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shared)
    places = torch.arange(length, device=query.device)
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) & (places < length - padding)[None, :]
    if window is not None:
        seen &= distance < window
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=shared)


def _one_call(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float | None
) -> torch.Tensor:
    longest, shared = max(layout.lengths), query.shape[1] != key.shape[1]
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    ends = layout.ends
    found: torch.Tensor = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=shared
    )
    return found[None]


def one_call_works(device: torch.device, dtype: torch.dtype, heads: int, shared: int, width: int) -> bool:
    """Whether the variable-length kernel runs here and agrees with plain attention, on a pack of two short texts."""
    if varlen_attn is None or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.cuda.get_device_capability(device) < (8, 0) or width > MOST_WIDTH:
        return False
    draws = torch.Generator(device=device).manual_seed(0)
    sizes = [(1, heads, 48, width), (1, shared, 48, width), (1, shared, 48, width)]
    q, k, v = (torch.randn(size, generator=draws, device=device, dtype=dtype) for size in sizes)
    ends = torch.tensor([0, 17, 48], dtype=torch.int32, device=device)
    layout = Layout((17, 31), (0, 0), ends)
    try:
        with torch.no_grad(), laid_out(layout):
            quick, _ = packed_attention(None, q, k, v, None)
        with torch.no_grad(), laid_out(Layout(layout.lengths, layout.padding)):
            plain, _ = packed_attention(None, q, k, v, None)
    except (RuntimeError, TypeError) as error:
        LOG.info("the variable-length attention kernel is not used: %s", str(error).splitlines()[:1])
        return False
    return bool(torch.allclose(quick.float(), plain.float(), atol=0.05, rtol=0.05))


def layout_of(lengths: Sequence[int], padding: Sequence[int], device: torch.device, *, one_call: bool) -> Layout:
    """The layout of a pack. Padding that is trained has a mask of its own and never goes to the one-call kernel."""
    if not one_call or any(padding):
        return Layout(tuple(lengths), tuple(padding))
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Layout(tuple(lengths), tuple(padding), ends.to(device))


AttentionInterface.register(NAME, packed_attention)

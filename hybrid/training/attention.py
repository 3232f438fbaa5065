"""Attention over a pack: several texts in one row, where no text attends to another.

It is registered with transformers as an attention function, so no model code is copied. On GPUs from Ampere on the
pack is one call of torch's variable-length kernel; elsewhere each text is one call. Neither computes or stores
anything for pairs of tokens of different texts.
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
MAX_WIDTH = 256
"""Widest head of the variable-length kernel, and of flash attention."""
TOLERANCE = 0.05
"""Relative error up to which a kernel in half precision counts as right."""


@dataclass(frozen=True, slots=True)
class PackLayout:
    """The texts of a pack: their lengths, and how many tokens at the end of each are trained padding (as in SEAL)."""

    lengths: tuple[int, ...]
    padding: tuple[int, ...]
    cumulative: torch.Tensor | None = (
        None  # int32 [texts + 1], cumulative lengths on the GPU, for the variable-length kernel
    )


_layout: ContextVar[PackLayout] = ContextVar("layout")


@contextmanager
def packed_layout(layout: PackLayout) -> Iterator[None]:
    """Attention inside the block uses this layout."""
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

    The signature is that of transformers' attention functions. Raises CannotRun for features that are not supported.
    """
    if softcap or s_aux is not None or dropout or attention_mask is not None:
        raise CannotRun(
            f"{type(module).__name__} caps, drops or masks attention in a way that packed training does not know",
            hint="train another model: Llama, SmolLM, Qwen and Mistral work",
        )
    layout = _layout.get()
    if layout.cumulative is not None and sliding_window is None and query.shape[-1] <= MAX_WIDTH:
        return _varlen(query, key, value, layout, scaling), None
    # Split as [1, T, heads, width], the memory order of the layers before and after, so that nothing is copied.
    cut = (one.transpose(1, 2).split(layout.lengths, dim=1) for one in (query, key, value))
    texts = zip(*([one.transpose(1, 2) for one in parts] for parts in cut), layout.padding, strict=True)
    found = [_one_text(q, k, v, padding, sliding_window, scaling) for q, k, v, padding in texts]
    return torch.cat([one.transpose(1, 2) for one in found], dim=1), None


def _one_text(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, padding: int, window: int | None, scale: float | None
) -> torch.Tensor:
    shared = query.shape[1] != key.shape[1]
    if shared and must_expand(query.device, query.shape[-1]):
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
        shared = False
    length = query.shape[2]
    if not padding and (window is None or length <= window):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shared)
    positions = torch.arange(length, device=query.device)
    distance = positions[:, None] - positions[None, :]
    visible = (distance >= 0) & (positions < length - padding)[None, :]
    if window is not None:
        visible &= distance < window
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scale, enable_gqa=shared)


def must_expand(device: torch.device, width: int) -> bool:
    """Whether keys and values must be copied for every head that shares them.

    Where there is no flash kernel (before Ampere, and for wide heads) torch's memory-efficient kernel remains, which
    does not share heads: asked to, torch would take plain matrix products, whose memory grows with the square of a
    text's length.
    """
    return device.type == "cuda" and (torch.cuda.get_device_capability(device) < (8, 0) or width > MAX_WIDTH)


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackLayout, scale: float | None
) -> torch.Tensor:
    longest, shared = max(layout.lengths), query.shape[1] != key.shape[1]
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    cumulative = layout.cumulative
    found: torch.Tensor = varlen_attn(
        q, k, v, cumulative, cumulative, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=shared
    )
    return found[None]


def varlen_works(device: torch.device, dtype: torch.dtype, heads: int, shared: int, width: int) -> bool:
    """Whether the variable-length kernel works here: it is compared with plain attention on two short texts, forward
    and backward.
    """
    if varlen_attn is None or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.cuda.get_device_capability(device) < (8, 0) or width > MAX_WIDTH:
        return False
    generator = torch.Generator(device=device).manual_seed(0)
    sizes = [(1, heads, 48, width), (1, shared, 48, width), (1, shared, 48, width)]
    q, k, v = (torch.randn(size, generator=generator, device=device, dtype=dtype) for size in sizes)
    cumulative = torch.tensor([0, 17, 48], dtype=torch.int32, device=device)
    layout = PackLayout((17, 31), (0, 0), cumulative)
    try:
        fast = _with_gradients(layout, q, k, v)
        plain = _with_gradients(PackLayout(layout.lengths, layout.padding), q, k, v)
    except (RuntimeError, TypeError) as error:
        LOG.info("the variable-length attention kernel is not used: %s", str(error).splitlines()[:1])
        return False
    pairs = zip(fast, plain, strict=True)  # by norm: a small gradient is a sum of large numbers of either sign
    return all(bool((one - other).norm() <= TOLERANCE * other.norm()) for one, other in pairs)


def _with_gradients(
    layout: PackLayout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The output of attention over a pack, and the gradients of half its sum of squares for query, key and value."""
    q, k, v = (one.detach().requires_grad_() for one in (query, key, value))
    with torch.enable_grad(), packed_layout(layout):
        found, _ = packed_attention(None, q, k, v, None)
        gradients = torch.autograd.grad(found.float().square().sum() / 2, (q, k, v))
    return tuple(one.detach().float() for one in (found, *gradients))


def layout_of(lengths: Sequence[int], padding: Sequence[int], device: torch.device, *, varlen: bool) -> PackLayout:
    """The layout of a pack. Trained padding needs a mask, so a pack with it does not use the variable-length kernel."""
    if not varlen or any(padding):
        return PackLayout(tuple(lengths), tuple(padding))
    cumulative = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return PackLayout(tuple(lengths), tuple(padding), cumulative.to(device))


AttentionInterface.register(NAME, packed_attention)

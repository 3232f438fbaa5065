"""Attention over a pack: several texts in one row, where no text attends to another.

It is registered with transformers as an attention function, so no model code is copied. On GPUs from Ampere on the
pack is one call of torch's variable-length kernel; elsewhere each text is one call. Neither computes or stores
anything for pairs of tokens of different texts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

from hybrid.errors import CannotRun
from hybrid.training.out_of_memory import is_out_of_memory

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older release of torch
    varlen_attn = None

LOG = logging.getLogger("hybrid")
NAME = "hybrid_packed"
MAX_WIDTH = 256
"""Widest head of the variable-length kernel, and of flash attention."""
BLOCK = 512
"""Rows of a block of attention over a window, whose mask is [rows, rows + window], not the square of a text."""
ALIGNED = 16
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
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
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict, compare=False)

    def mask(self, like: torch.Tensor, rows: int, keys: int, behind: int, window: int) -> torch.Tensor:
        """What is added to the scores [rows, keys] of a block whose first row is `behind` keys after the first key:
        0 for the `window` keys up to a row's own, else -inf.

        All layers and blocks share it. Its rows are aligned for the memory-efficient kernel, which would keep an
        aligned copy of each otherwise.
        """
        about = rows, keys, behind, window
        if about not in self.masks:
            columns = -(-keys // ALIGNED) * ALIGNED
            row, column = (torch.arange(size, device=like.device) for size in (rows, columns))
            distance = row[:, None] + behind - column[None]
            hidden = (distance < 0) | (distance >= window)
            self.masks[about] = like.new_zeros(rows, columns).masked_fill_(hidden, -torch.inf)[:, :keys]
        return self.masks[about]


@contextmanager
def attending_with(model: Any, name: str) -> Iterator[None]:
    """Within it, a model computes attention with the function `name` that is registered with transformers.

    Raises CannotRun for a model whose code has attention of its own: it would compute that in silence.
    """
    before = model.config._attn_implementation  # noqa: SLF001  (there is no public accessor)
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:  # noqa: SLF001
        raise CannotRun(
            f"{type(model).__name__} has attention of its own in transformers, which cannot be given packed texts",
            hint="take a model of another family, such as Llama, Qwen, Mistral, GPT-2 or GPT-NeoX",
        )
    try:
        yield
    finally:
        model.set_attn_implementation(before)


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
    if layout.cumulative is not None and query.shape[-1] <= MAX_WIDTH:
        return _varlen(query, key, value, layout, scaling, sliding_window), None
    # Split as [1, T, heads, width], the memory order of the layers before and after, so that nothing is copied.
    cut = (one.transpose(1, 2).split(layout.lengths, dim=1) for one in (query, key, value))
    texts = zip(*([one.transpose(1, 2) for one in parts] for parts in cut), layout.padding, strict=True)
    how: Any = {"window": sliding_window, "scale": scaling, "layout": layout}
    found = [_one_text(q, k, v, padding=padding, **how) for q, k, v, padding in texts]
    return torch.cat([one.transpose(1, 2) for one in found], dim=1), None


def _one_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    padding: int,
    window: int | None,
    scale: float | None,
    layout: PackLayout,
) -> torch.Tensor:
    length, masked = query.shape[2], window is not None and query.shape[2] > window
    if query.shape[1] != key.shape[1] and must_expand(query.device, query.shape[-1], masked=masked):
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    real = length - padding
    key, value = key[:, :, :real], value[:, :, :real]  # no token attends to trained padding
    if window is None or not masked:
        parts = [_attend(query[:, :, :real], key, value, scale, causal=True)]
        if padding:
            parts.append(_attend(query[:, :, real:], key, value, scale))
    else:
        parts = []
        for start in range(0, length, BLOCK):
            end = min(start + BLOCK, length)
            first, last = min(max(0, start - window + 1), real - 1), min(end, real)
            mask = layout.mask(query, end - start, last - first, start - first, window)
            parts.append(
                _attend(query[:, :, start:end], key[:, :, first:last], value[:, :, first:last], scale, mask=mask)
            )
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared
    )


def must_expand(device: torch.device, width: int, *, masked: bool = False) -> bool:
    """Whether keys and values must be copied for every head that shares them.

    Where there is no flash kernel (before Ampere, for wide heads, for a mask) torch's memory-efficient kernel remains,
    which does not share heads: asked to, torch would take plain matrix products, whose memory grows with the square of
    a text's length.
    """
    if device.type != "cuda":
        return False
    return masked or width > MAX_WIDTH or torch.cuda.get_device_capability(device) < (8, 0)


def fused_kernels(device: torch.device, dtype: torch.dtype, heads: int, shared: int, width: int) -> list[SDPBackend]:
    """The kernels that attention may use on a GPU, none of which keeps the square of a text's length; empty: any.

    A warning tells when they do not take these heads; the memory plan measures what plain matrix products keep. cuDNN's
    kernel is left out, since it is compiled for every length.
    """
    if device.type != "cuda":
        return []
    sizes = [(1, heads, 48, width), (1, shared, 48, width), (1, shared, 48, width)]
    q, k, v = (torch.zeros(size, device=device, dtype=dtype) for size in sizes)
    try:
        with sdpa_kernel(FUSED):
            for window in (None, 9):
                _with_gradients(PackLayout((17, 31), (0, 5)), q, k, v, window)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        LOG.warning(
            "attention over %d heads of %d numbers in %s has no fused kernel on this GPU: training takes memory that "
            "grows with the square of a text's length",
            *(heads, width, str(dtype).removeprefix("torch.")),
        )
        return []
    return FUSED


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackLayout,
    scale: float | None,
    window: int | None,
) -> torch.Tensor:
    longest, shared = max(layout.lengths), query.shape[1] != key.shape[1]
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))
    cumulative, behind = layout.cumulative, -1 if window is None else window - 1
    found: torch.Tensor = varlen_attn(
        q, k, v, cumulative, cumulative, longest, longest, scale=scale, window_size=(behind, 0), enable_gqa=shared
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
        both = (layout, PackLayout(layout.lengths, layout.padding))
        fast, plain = ([one for window in (None, 9) for one in _with_gradients(how, q, k, v, window)] for how in both)
    except (RuntimeError, TypeError) as error:
        LOG.info("the variable-length attention kernel is not used: %s", str(error).splitlines()[:1])
        return False
    pairs = zip(fast, plain, strict=True)  # by norm: a small gradient is a sum of large numbers of either sign
    return all(bool((one - other).norm() <= TOLERANCE * other.norm()) for one, other in pairs)


def _with_gradients(
    layout: PackLayout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None = None
) -> tuple[torch.Tensor, ...]:
    """The output of attention over a pack, and the gradients of half its sum of squares for query, key and value."""
    q, k, v = (one.detach().requires_grad_() for one in (query, key, value))
    with torch.enable_grad(), packed_layout(layout):
        found, _ = packed_attention(None, q, k, v, None, sliding_window=window)
        gradients = torch.autograd.grad(found.float().square().sum() / 2, (q, k, v))
    return tuple(one.detach().float() for one in (found, *gradients))


AttentionInterface.register(NAME, packed_attention)

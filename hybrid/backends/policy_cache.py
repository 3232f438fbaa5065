"""Keys and values of rows that are decoded together: a prompt's are held and read once for all of its samples.

What rows write goes into buffers of the final size, so nothing is copied from step to step. All queries of a prompt's
samples, and of the heads that share keys, are one product with its keys: Hugging Face's library, and a cache with a row
for each sample, read these keys once for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hybrid.backends.capacity import cached_bytes
from hybrid.training.attention import attending_with

NAME = "hybrid_decoding"


class SharingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: of prompts [prompts, heads, columns, width], and of what rows wrote behind them.

    The latter are the first `used` columns of buffers [rows, heads, columns, width].
    """

    def __init__(self, prompts: tuple[torch.Tensor, torch.Tensor], rows: int, columns: int) -> None:
        super().__init__()
        self.prompts = prompts
        shapes = [(rows, one.shape[1], columns, one.shape[3]) for one in prompts]
        self.buffers = [one.new_empty(shape) for one, shape in zip(prompts, shapes, strict=True)]
        self.dtype, self.device, self.is_initialized = prompts[0].dtype, prompts[0].device, True
        self.used = 0

    def get_seq_length(self) -> int:
        """Columns of prompts and of what was written."""
        return int(self.prompts[0].shape[2]) + self.used

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a column behind those in use. Returns all but the prompts'."""
        self.used += 1
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.used - 1 : self.used] = new
        keys, values = (buffer[:, :, : self.used] for buffer in self.buffers)
        return keys, values

    def keep(self, rows: torch.Tensor, prompts: torch.Tensor, first: int) -> None:
        """Keep these rows and prompts, and the columns of prompts from `first` on."""
        keys, values = (one[prompts, :, first:] for one in self.prompts)
        self.prompts = keys, values
        for place, old in enumerate(self.buffers):
            new = old.new_empty(len(rows), *old.shape[1:])
            new[:, :, : self.used] = old[rows, :, : self.used]
            self.buffers[place] = new


class Sharing:
    """Which prompt each row begins with: row r with number `prompt[r]` of `count`; equal ones are side by side.

    `grouped` and `single` change between [rows, heads, n, width] and [prompts, heads, widest * n, width], where a
    prompt has as many places as the `widest` has rows.
    """

    def __init__(self, prompt: torch.Tensor) -> None:
        rows = torch.arange(len(prompt), device=prompt.device)
        first = torch.searchsorted(prompt, prompt)  # the first row of each one's prompt
        self.prompt, self.count = prompt, int(prompt[-1]) + 1
        self.widest = int((rows - first).max()) + 1
        self._place = prompt * self.widest + rows - first
        self._full = self.count * self.widest == len(prompt)

    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of each prompt beside each other."""
        _, heads, n, width = rows.shape
        if not self._full:
            placed = rows.new_zeros(self.count * self.widest, heads, n, width)
            placed[self._place] = rows
            rows = placed
        return rows.view(self.count, self.widest, heads, n, width).transpose(1, 2).flatten(2, 3)

    def single(self, grouped: torch.Tensor) -> torch.Tensor:
        """The rows one behind the other."""
        prompts, heads, _, width = grouped.shape
        apart = grouped.view(prompts, heads, self.widest, -1, width).transpose(1, 2).flatten(0, 1)
        return apart if self._full else apart[self._place]


class SharingCache(DynamicCache):  # type: ignore[misc]
    """Keys and values of prompts, each held once for all of its rows, and of what the rows write.

    `prompt_of_row` are sorted numbers of prompts. The prompts end with column `longest` - 1. Columns in front of a
    shorter one are zero: attention is masked there, but what is no number would stay none. Layers with a sliding window
    keep all columns, too: the model masks them.
    """

    def __init__(self, prompt_of_row: torch.Tensor, longest: int, columns: int) -> None:
        super().__init__()
        self.sharing, self._longest, self._columns = Sharing(prompt_of_row), longest, columns
        self.layers: list[SharingLayer] = []
        self.layer_class_to_replicate = None

    def write(self, prompt: int, of: DynamicCache, row: int) -> None:
        """Copy row `row` of a prefilled cache to a prompt's place."""
        if not self.layers:
            self.layers = [self._layer(one) for one in of.layers]
        for layer, one in zip(self.layers, of.layers, strict=True):
            for kept, new in zip(layer.prompts, (one.keys, one.values), strict=True):
                kept[prompt, :, self._longest - new.shape[2] :] = new[row]

    def _layer(self, like: DynamicLayer) -> SharingLayer:
        count, rows = self.sharing.count, len(self.sharing.prompt)
        keys, values = (
            one.new_zeros(count, one.shape[1], self._longest, one.shape[3]) for one in (like.keys, like.values)
        )
        return SharingLayer((keys, values), rows, self._columns)

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Keep these rows, and the columns from `first` on. One layer after the other, so that little is held twice."""
        prompts, numbers = self.sharing.prompt[rows].unique_consecutive(return_inverse=True)
        self.sharing = Sharing(numbers)
        for layer in self.layers:
            layer.keep(rows, prompts, first)


def bytes_of_token(config: Any, itemsize: int) -> int:
    """The bytes of the keys and values of a token, by a model's configuration."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return cached_bytes(int(text.num_hidden_layers), int(heads), int(width), itemsize)


_cache: ContextVar[SharingCache] = ContextVar("cache")


@contextmanager
def decoding(model: Any, cache: SharingCache) -> Iterator[None]:
    """Within it, the model computes a token of each row of the cache, with this module's attention."""
    token = _cache.set(cache)
    try:
        with attending_with(model, NAME):
            yield
    finally:
        _cache.reset(token)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions: query [rows, heads, 1, width] -> [rows, 1, heads, width].

    `key` and `value` are those behind the prompts. `mask` [rows, 1, 1, columns]: true where attended to. Models whose
    mask differs from head to head are computed by transformers' `sdpa`, with a copy of its prompt for each row.
    """
    cache = _cache.get()
    prompts, sharing = cache.layers[module.layer_idx].prompts, cache.sharing
    if more.get("position_bias") is not None or (mask is not None and (mask.shape[1] > 1 or mask.dtype != torch.bool)):
        key, value = (
            torch.cat([one[sharing.prompt], new], dim=2) for one, new in zip(prompts, (key, value), strict=True)
        )
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    rows, heads, _, width = query.shape
    queries = (query * (width**-0.5 if scaling is None else scaling)).view(rows, key.shape[1], -1, width)
    on_prompts = sharing.single(sharing.grouped(queries) @ prompts[0].transpose(2, 3))
    scores = torch.cat([on_prompts, queries @ key.transpose(2, 3)], dim=-1)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    of_prompts, of_rows = weights.split([prompts[0].shape[2], key.shape[2]], dim=-1)
    out = sharing.single(sharing.grouped(of_prompts) @ prompts[1]) + of_rows @ value
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

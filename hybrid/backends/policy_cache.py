"""Keys and values of rows that are decoded together, in buffers of their final size, and attention over them.

Nothing is copied from step to step: a step writes one column. Heads that share keys and values are computed as several
queries over one head, where Hugging Face's library copies the keys and values for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "hybrid_decoding"


class BufferedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: the first columns of buffers [rows, heads, columns, width]."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        super().__init__()
        self.key_buffer, self.value_buffer = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._use(used)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write columns behind those in use, and return all of them."""
        used, end = self.used, self.used + key_states.shape[2]
        self.key_buffer[:, :, used:end] = key_states
        self.value_buffer[:, :, used:end] = value_states
        self._use(end)
        return self.keys, self.values

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Keep these rows, and the columns from `first` on; nothing is kept of the others."""
        used, columns = self.used - first, self.key_buffer.shape[2] - first
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            new = old.new_empty(len(rows), old.shape[1], columns, old.shape[3])
            new[:, :, :used] = old[rows, :, first : self.used]
            setattr(self, name, new)
        self._use(used)

    def _use(self, used: int) -> None:
        self.used = used
        self.keys, self.values = self.key_buffer[:, :, :used], self.value_buffer[:, :, :used]


class BufferedCache(DynamicCache):  # type: ignore[misc]
    """The layers of a model: prompts are written into rows first, then all rows grow together.

    The prompts end with column `prompts` - 1. Columns in front of a shorter prompt are zero: attention is masked there,
    but what is no number would stay none. Layers with a sliding window keep all columns, too: the model masks them.
    """

    def __init__(self, rows: int, prompts: int, columns: int) -> None:
        super().__init__()
        self._rows, self._prompts, self._columns = rows, prompts, columns
        self.layers: list[BufferedLayer] = []
        self.layer_class_to_replicate = None

    def write(self, first: int, count: int, of: DynamicCache, row: int) -> None:
        """Copy row `row` of a prefilled cache into `count` rows from `first` on."""
        if not self.layers:
            self.layers = [self._layer(one) for one in of.layers]
        for layer, one in zip(self.layers, of.layers, strict=True):
            start = self._prompts - one.keys.shape[2]
            for buffer, new in ((layer.key_buffer, one.keys), (layer.value_buffer, one.values)):
                buffer[first : first + count, :, :start] = 0
                buffer[first : first + count, :, start : self._prompts] = new[row]

    def _layer(self, like: DynamicLayer) -> BufferedLayer:
        keys, values = (
            one.new_empty(self._rows, one.shape[1], self._columns, one.shape[3]) for one in (like.keys, like.values)
        )
        return BufferedLayer(keys, values, self._prompts)

    def keep(self, rows: torch.Tensor, first: int) -> None:
        """Keep these rows, and the columns from `first` on. One layer after the other, so that little is held twice."""
        for layer in self.layers:
            layer.keep(rows, first)


def bytes_of_token(config: Any, itemsize: int) -> int:
    """The keys and values of a token: 2 x layers x key-value heads x head width x bytes."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * itemsize)


@contextmanager
def decoding_attention(model: Any) -> Iterator[None]:
    """Within it, the model uses this module's attention."""
    before = model.config._attn_implementation  # noqa: SLF001  (there is no public accessor)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


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

    Prompts, and models whose mask differs from head to head, are computed by its `sdpa`.
    """
    rows, heads, tokens, _ = query.shape
    shared = key.shape[1]
    if (
        tokens > 1
        or heads == shared
        or (mask is not None and mask.shape[1] != 1)
        or more.get("position_bias") is not None
    ):
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    grouped = query.reshape(rows, shared, heads // shared, -1)
    out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

"""How much memory vLLM reserves for LoRA adapters, and so how many it can hold at once. No engine is imported here.

vLLM reserves room for an adapter of the largest rank at every linear layer, whatever the adapters in use target: a
smaller set of layers (`lora_target_modules`) makes it ignore the rest of an adapter without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

MOST_ADAPTERS = 32
"""Adapters at once: as many as are trained between two rounds of answers."""

SHARE = 0.25
"""Part of the memory that the weights leave which adapters may take: keys and values need the rest."""

UNKNOWN_SHAPE = 16
"""Adapters at once for a model whose configuration does not tell its shape."""


def adapter_bytes(config: Mapping[str, Any], rank: int, dtype: str) -> int:
    """Bytes of one adapter of `rank` in numbers of `dtype`; 0 for a model whose `config.json` does not tell its shape.

    Queries, keys and values have an A each, as have gate and up; embeddings and the output layer are reserved too.
    """
    shape = {**config, **(config.get("text_config") or {})}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    width, layers, heads, words = (_whole(shape, name) for name in names)
    if not (width and layers and heads):
        return 0
    inner = _whole(shape, "moe_intermediate_size") or _whole(shape, "intermediate_size")
    counts = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((count for name in counts if (count := _whole(shape, name))), 1)
    head = _whole(shape, "head_dim") or width // heads
    shared = _whole(shape, "num_key_value_heads") or heads
    attention = 3 * width + (heads + 2 * shared) * head + heads * head + width
    gate_up_down = 3 * width + 3 * inner
    return rank * NUMBER_BYTES[dtype] * (layers * (attention + experts * gate_up_down) + 2 * (words + width))


def adapters_that_fit(each: int, free: int, weights: int) -> int:
    """How many adapters of `each` bytes to hold in `free` bytes of memory beside `weights` bytes: from 1 to 32."""
    if not each:
        return UNKNOWN_SHAPE
    return max(1, min(MOST_ADAPTERS, int(max(0, free - weights) * SHARE) // each))


def _whole(shape: Mapping[str, Any], name: str) -> int:
    value = shape.get(name)
    return value if isinstance(value, int) and value > 0 else 0

"""How many adapters vLLM holds at once, by the shape of the model."""

from __future__ import annotations

import pytest

from hybrid.backends.adapter_memory import UNKNOWN_SHAPE, adapter_bytes, adapters_that_fit

SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}
LLAMA_1B = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "vocab_size": 128256,
}
GIB = 1024**3


def test_the_bytes_are_those_that_vllm_reserves() -> None:
    assert 2 * adapter_bytes(SMOLLM2, 8, "float32") == 25_903_104  # as counted in vLLM 0.32, 2 adapters of rank 8


def test_a_larger_adapter_leaves_room_for_fewer() -> None:
    each = adapter_bytes(LLAMA_1B, 128, "float16")
    assert 16 * each == pytest.approx(3.95e9, rel=0.01)
    assert adapters_that_fit(each, 15 * GIB, 2 * GIB + GIB // 2) == 13  # a T4
    assert adapters_that_fit(each, 80 * GIB, 2 * GIB + GIB // 2) == 32
    assert adapters_that_fit(each, 3 * GIB, 2 * GIB + GIB // 2) == 1, "vLLM says it, if not even one fits"
    assert adapters_that_fit(each, GIB, 2 * GIB) == 1


def test_a_model_of_unknown_shape_gets_a_fixed_number() -> None:
    for config in ({}, {"hidden_size": "wide"}, {**LLAMA_1B, "num_attention_heads": None}):
        assert adapters_that_fit(adapter_bytes(config, 8, "float32"), 80 * GIB, 0) == UNKNOWN_SHAPE
    assert adapter_bytes({"text_config": LLAMA_1B}, 8, "float16") == adapter_bytes(LLAMA_1B, 8, "float16")
    assert adapter_bytes({**LLAMA_1B, "num_experts": 4}, 8, "float16") > 2 * adapter_bytes(LLAMA_1B, 8, "float16")

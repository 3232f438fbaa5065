"""Models with random weights, texts of random tokens, and jobs that train on them: no peer's library is needed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid.training.jobs import Job, Tokens
from hybrid.tuning import Tuning

RANK, ALPHA, RATE = 16, 16.0, 1e-4
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The shape of SmolLM2-135M."""

LLAMA_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
TINY = {
    **LLAMA_1B,
    "vocab_size": 301,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def random_llama(shape: Mapping[str, Any], dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A Llama of any shape with random weights, which compute at the speed of real ones."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    finally:
        torch.set_default_dtype(before)


def random_text(seed: int | str, length: int, labelled: int, vocabulary: int) -> Tokens:
    """Random tokens, of which the last `labelled` have a label."""
    draws = random.Random(seed)
    ids = tuple(draws.randrange(vocabulary) for _ in range(length))
    return Tokens(ids, tuple(place >= length - labelled for place in range(length)))


def job_of(name: str, texts: Sequence[Tokens], **how: Any) -> Job:
    """A job for one adapter on `texts`: one epoch by default, other settings as in SEAL."""
    settings = {"learning_rate": RATE, "epochs": 1, "rank": RANK, "alpha": ALPHA, "warmup": 0, **how}
    return Job(name, Tuning({"texts": name}, **settings), tuple(texts))

"""Random GGUF models of one layer with a given chat template, for tests of how a turn ends. Tokens: bytes and marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WIDTH = 32
MARKS = ("<|end|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|return|>", "<|system|>")
SHAPE: dict[str, Any] = {
    "context_length": 1024,
    "embedding_length": WIDTH,
    "block_count": 1,
    "feed_forward_length": 2 * WIDTH,
    "head_count": 4,
    "head_count_kv": 4,
    "layer_norm_rms_eps": 1e-5,
    "rope_dimension_count": WIDTH // 4,
    "tokenizer_model": "gpt2",
    "tokenizer_pre": "smollm",
    "token_merges": ["a b"],
    "eos_token_id": MARKS.index("<|eos|>"),
}


def write(path: Path, template: str | None, *, likeliest: str = "") -> Path:
    """A model with this chat template, or with none, whose configuration names <|eos|> as the end.

    `likeliest`: the token that it writes, whatever was said before; without one it writes at random.
    """
    gguf = pytest.importorskip("gguf", reason="needs gguf, which is not installed")
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers, which is not installed")
    words = [*MARKS, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    made = gguf.GGUFWriter(str(path), "llama")
    for name, value in SHAPE.items():
        getattr(made, f"add_{name}")(value)
    made.add_vocab_size(len(words))
    made.add_token_list(words)
    made.add_token_types([gguf.TokenType.CONTROL if word in MARKS else gguf.TokenType.NORMAL for word in words])
    if template is not None:
        made.add_chat_template(template)
    for name, values in _tensors(words, likeliest).items():
        made.add_tensor(f"{name}.weight", values)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


def _tensors(words: list[str], likeliest: str) -> dict[str, Any]:
    np = pytest.importorskip("numpy", reason="needs numpy, which is not installed")
    draw = np.random.default_rng(0)
    shapes = {f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (2 * WIDTH, WIDTH), "blk.0.ffn_up": (2 * WIDTH, WIDTH)}
    shapes |= {"blk.0.ffn_down": (WIDTH, 2 * WIDTH)}
    tensors = {name: draw.normal(0, 0.3, shape) for name, shape in shapes.items()}
    tensors |= {name: np.ones(WIDTH) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")}
    tensors |= {name: draw.normal(0, 0.3, (len(words), WIDTH)) for name in ("token_embd", "output")}
    if likeliest:  # every state is the same one, and every other token's logit is 0
        tensors |= {name: np.zeros(shape) for name, shape in shapes.items()}
        tensors |= {"token_embd": np.ones((len(words), WIDTH)), "output": np.zeros((len(words), WIDTH))}
        tensors["output"][words.index(likeliest)] = 1.0
    return {name: values.astype(np.float32) for name, values in tensors.items()}

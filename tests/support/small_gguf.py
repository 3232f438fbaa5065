"""Small GGUF models of random weights that llama.cpp loads, whole or split as llama.cpp splits them."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

WIDTH, HIDDEN, LAYERS, WORDS = 32, 64, 2, 260

EMPTY = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)
"""A header of no keys and no tensors: what follows it is looked at by nobody."""


def header(keys: Mapping[str, tuple[int, bytes]], tensors: int = 0, version: int = 3) -> bytes:
    """A header with these keys: name -> number of the type and the value's bytes."""
    head = struct.pack("<4sIQQ", b"GGUF", version, tensors, len(keys))
    for name, (kind, value) in keys.items():
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
    return head


def split_header(number: int, count: int, tensors: int = 0, of_all: int = 0) -> bytes:
    """The header of a part, `number` from 0."""
    return header(
        {
            "split.no": (2, struct.pack("<H", number)),
            "split.count": (2, struct.pack("<H", count)),
            "split.tensors.count": (5, struct.pack("<i", of_all)),
        },
        tensors,
    )


def write_model(path: Path, *, parts: int = 1, seed: int = 0, without: Collection[str] = ()) -> list[Path]:
    """A Llama of two layers in `parts` files; `path` is the name without a suffix. Returns the files."""
    import gguf

    tensors = {name: value for name, value in _tensors(seed).items() if name not in without}
    names = list(tensors)
    shares = [names[part::parts] for part in range(parts)]
    files = []
    for number, share in enumerate(shares):
        file = path.with_name(f"{path.name}-{number + 1:05d}-of-{parts:05d}.gguf" if parts > 1 else f"{path.name}.gguf")
        writer = gguf.GGUFWriter(file, "llama")
        if number == 0:
            _describe(writer)
        if parts > 1:
            writer.add_uint16("split.no", number)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(tensors))
        for name in share:
            writer.add_tensor(name, tensors[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(file)
    return files


def _describe(writer: Any) -> None:
    """What the model is, and a tokenizer whose tokens are bytes."""
    import gguf
    from tokenizers import pre_tokenizers

    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "cd"]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([control, control] + [normal] * (len(words) - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")


def _tensors(seed: int) -> dict[str, Any]:
    import numpy as np

    draw = np.random.default_rng(seed)

    def made(*shape: int) -> Any:
        return (draw.standard_normal(shape) * 0.3).astype(np.float32)

    found = {"token_embd.weight": made(WORDS, WIDTH), "output.weight": made(WORDS, WIDTH)}
    found["output_norm.weight"] = np.ones(WIDTH, np.float32)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found[f"blk.{layer}.{name}.weight"] = made(WIDTH, WIDTH)
        found[f"blk.{layer}.ffn_gate.weight"] = made(HIDDEN, WIDTH)
        found[f"blk.{layer}.ffn_up.weight"] = made(HIDDEN, WIDTH)
        found[f"blk.{layer}.ffn_down.weight"] = made(WIDTH, HIDDEN)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{layer}.{name}.weight"] = np.ones(WIDTH, np.float32)
    return found

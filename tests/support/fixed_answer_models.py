"""Tiny models with a fixed answer: each token has one successor, so the text they write is known in advance.

One layer that adds nothing, one-hot embeddings, and an output matrix that maps each token to its successor. The tokens
of the text must therefore be distinct; the first of them is the prompt's last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH = 320
START, END = "<s>", "</s>"


def words(special: Sequence[str]) -> list[str]:
    """The vocabulary: the special tokens, then one token a byte."""
    return [START, END, *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]


def tokenizer(special: Sequence[str]) -> Tokenizer:
    """Bytes, and special tokens that are left out of texts."""
    vocabulary = words(special)
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(vocabulary)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([START, END, *special])
    return made


def successors(special: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Each token of `text` (from the prompt's last one on) with what follows it; the last one ends the answer."""
    ids = [*tokenizer(special).encode(text, add_special_tokens=False).ids, 1]
    assert len(set(ids)) == len(ids), f"a token comes twice in {text!r}"
    return list(pairwise(ids))


def hf_folder(folder: Path, special: Sequence[str], text: str, template: str) -> Path:
    """The model for transformers and vLLM."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    size = len(words(special))
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=size,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0 if weight.dim() == 1 else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(size, WIDTH))
        for one, following in successors(special, text):
            model.lm_head.weight[following, one] = 1.0
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(special), bos_token=START, eos_token=END, additional_special_tokens=list(special)
    )
    made.chat_template = template
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def gguf_file(path: Path, special: Sequence[str], text: str, template: str, *, shown: bool = False) -> Path:
    """The same model for llama.cpp and Ollama. `shown`: its special tokens are not left out of texts."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    vocabulary = words(special)
    size = len(vocabulary)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    kinds = [TokenType.CONTROL] * 2 + [TokenType.USER_DEFINED if shown else TokenType.CONTROL] * len(special)
    writer.add_token_types(kinds + [TokenType.NORMAL] * (size - len(kinds)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for name, tensor in _tensors(np, size, successors(special, text)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(np: Any, size: int, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    output = np.zeros((size, WIDTH), dtype="float32")
    for one, following in pairs:
        output[following, one] = 1.0
    square, ones = np.zeros((WIDTH, WIDTH), dtype="float32"), np.ones(WIDTH, dtype="float32")
    inner = {f"blk.0.attn_{name}.weight": square for name in ("q", "k", "v", "output")}
    return {
        "token_embd.weight": np.eye(size, WIDTH, dtype="float32"),
        "output.weight": output,
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.ffn_norm.weight": ones,
        **inner,
        "blk.0.ffn_gate.weight": np.zeros((32, WIDTH), dtype="float32"),
        "blk.0.ffn_up.weight": np.zeros((32, WIDTH), dtype="float32"),
        "blk.0.ffn_down.weight": np.zeros((WIDTH, 32), dtype="float32"),
    }

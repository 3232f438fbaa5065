#!/bin/bash
# llama.cpp as xllamacpp 2026.10.11549 carries it: models that one process loads one after the other are asked for JSON by a
# schema. Every few loads a model is held to the schema with the tokens of the model that was freed before it, so that its
# answer is no JSON. The grammar engine keeps one table of tokens and knows its model by an address, which is used again.
# Expected: every answer is `true` or `false`. Seen: others, in some of 60 loads of two models whose tokens have other numbers;
# never while the model before is still loaded. Between models of more different vocabularies an assertion ends the process.
# Exits 0 while it behaves so, 1 when it does not any more.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.4.6
cat > try.py <<'P'
import json
from importlib.metadata import version

import gguf
import numpy as np
import xllamacpp

WIDTH = 32


def write(path, special):
    """A random model of one layer: some special tokens, then one token a character."""
    words = [*special, *map(chr, range(33, 127))]
    made = gguf.GGUFWriter(path, "llama")
    made.add_context_length(256)
    made.add_embedding_length(WIDTH)
    made.add_block_count(1)
    made.add_feed_forward_length(WIDTH)
    made.add_head_count(4)
    made.add_head_count_kv(4)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(WIDTH // 4)
    made.add_vocab_size(len(words))
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("smollm")
    made.add_token_list(words)
    made.add_token_types([3 if len(word) > 1 else 1 for word in words])
    made.add_token_merges(["a b"])
    made.add_bos_token_id(0)
    made.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    names = [f"blk.0.{name}" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")]
    shapes = {"token_embd": (len(words), WIDTH), "output": (len(words), WIDTH)} | dict.fromkeys(names, (WIDTH, WIDTH))
    for name, shape in shapes.items():
        made.add_tensor(f"{name}.weight", draw.normal(0, 0.3, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        made.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def load(path):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 256, 1, 0, False
    return xllamacpp.Server(params)


def answer(server):
    replies = []
    body = {"prompt": "a", "max_tokens": 10, "temperature": 0, "json_schema": {"type": "boolean"}}
    server.handle_completions(body, lambda reply: replies.append(reply) or False)
    return replies[-1]["choices"][0]["text"]


def wrong(keep):
    """How many answers of 60 loads are no boolean; `keep` holds the model before until the next one is loaded."""
    count, before = 0, None
    for number in range(60):
        server = load(("few.gguf", "more.gguf")[number % 2])
        count += answer(server) not in ("true", "false")
        before = server if keep else None
        del server
    return count


write("few.gguf", ["<s>", "</s>", "<|user|>"])
write("more.gguf", ["<s>", "</s>", "<|user|>", "<|model|>", "<|end|>"])
found = {"freed before the next is loaded": wrong(keep=False), "kept until the next is loaded": wrong(keep=True)}
print(f"xllamacpp {version('xllamacpp')}: answers that are no boolean, of 60:", json.dumps(found))
assert list(map(bool, found.values())) == [True, False], "it behaves otherwise now"
P
env/bin/python try.py 2>/dev/null

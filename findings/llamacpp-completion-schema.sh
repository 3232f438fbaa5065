#!/bin/bash
# llama.cpp as xllamacpp 2026.10.11549 carries it: a completion whose `json_schema` holds a keyword that its grammar engine
# does not know ("uniqueItems", plain JSON Schema) is written without any schema, and nothing says so.
# Expected: an answer that begins as an array does, or an error. Seen: the token that is made likely, which no JSON begins
# with. The same schema without that keyword is held to, and the same schema in a chat is held to.
# Exits 0 while it behaves so, 1 when it does not any more.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.4.6
cat > try.py <<'P'
import json
import urllib.request
from importlib.metadata import version

import gguf
import numpy as np
import xllamacpp

WIDTH = 32
words = ["<s>", "</s>", "<|user|>", "<|model|>", *map(chr, range(33, 127)), "Ġ", "Ċ"]  # "Ġ": a blank, "Ċ": a line break


def write(path):
    """A random model of one layer, with a chat template."""
    made = gguf.GGUFWriter(path, "llama")
    made.add_context_length(256)
    made.add_embedding_length(WIDTH)
    made.add_block_count(1)
    made.add_feed_forward_length(2 * WIDTH)
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
    made.add_chat_template("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|model|>")
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(words), WIDTH), "output": (len(words), WIDTH), "blk.0.ffn_down": (WIDTH, 2 * WIDTH)}
    shapes |= {f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (2 * WIDTH, WIDTH) for name in ("gate", "up")}
    for name, shape in shapes.items():
        made.add_tensor(f"{name}.weight", draw.normal(0, 0.3, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        made.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


write("tiny.gguf")
params = xllamacpp.CommonParams()
params.model.path = "tiny.gguf"
params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 256, 1, 0, False
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)


def post(path, **body):
    how = {"temperature": 0, "max_tokens": 1, "n_predict": 1, "logit_bias": [[words.index("x"), 1000.0]]}
    data = json.dumps({**how, **body}).encode()
    ask = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask) as reply:
        return json.load(reply)


plain = {"type": "array", "items": {"type": "string"}}
schema = {**plain, "uniqueItems": True}
said = {
    "completion, without the keyword": post("/completion", prompt="a", json_schema=plain)["content"],
    "completion": post("/completion", prompt="a", json_schema=schema)["content"],
    "chat": post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "a"}],
        response_format={"type": "json_schema", "json_schema": {"schema": schema}},
    )["choices"][0]["message"]["content"],
}
print("xllamacpp", version("xllamacpp"), said)
held = {name: not text.startswith("x") for name, text in said.items()}
assert held == {"completion, without the keyword": True, "completion": False, "chat": True}, held
P
env/bin/python try.py

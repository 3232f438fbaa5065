#!/bin/bash
# PEFT 0.21.2: an adapter of rank 4 is swapped with `hotswap_adapter` into a model that was loaded with one of rank 8, and the
# model is saved with `save_pretrained`.
# Expected: the saved adapter, loaded again, answers as the one that was swapped in.
# Seen: the model answers right after the swap, but its configuration keeps the rank and alpha of the first adapter. Saving writes
# them beside the weights of the second, so the saved folder loads without an error or a warning, and answers otherwise: its
# update is scaled by 8/8 instead of 32/4.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 3 GB (torch), takes a minute or two.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 peft==0.21.2
cat > try.py <<'P'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

SHAPE = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(SHAPE)


@torch.no_grad()
def logits(model):
    return model.eval()(torch.tensor([[1, 2, 3, 4]])).logits


def save(folder, rank, alpha, seed):
    """Save an adapter with random weights, and return what a model with it answers."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base(), config)
    torch.manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    return logits(model)


save("first", 8, 8, 1)
wanted = save("second", 4, 32, 2)
model = PeftModel.from_pretrained(base(), "first")
hotswap_adapter(model, "second", "default")
swapped = (logits(model) - wanted).abs().max().item()
model.save_pretrained("saved")
config = json.loads(Path("saved/adapter_config.json").read_text())
again = (logits(PeftModel.from_pretrained(base(), "saved")) - wanted).abs().max().item()
print(f"peft {version('peft')}: difference of the logits after the swap {swapped:.4f}, after saving and loading {again:.4f};")
print(f"saved with r={config['r']}, lora_alpha={config['lora_alpha']}; the adapter has r=4, lora_alpha=32")
sys.exit(0 if swapped < 1e-5 and again > 0.01 and (config["r"], config["lora_alpha"]) == (8, 8) else 1)
P
env/bin/python try.py 2> log || { code=$?; tail -n 5 log >&2; exit "$code"; }
! grep -iE "warn" log

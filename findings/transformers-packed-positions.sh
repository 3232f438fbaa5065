#!/bin/bash
# transformers 5.19.0: two texts are packed into one row, told apart by `position_ids` that begin again at 0, without an
# attention mask: the form in which DataCollatorWithFlattening gives them. The model is called directly, as in a training loop of one's
# own; the Trainer sets use_cache=False itself.
# Expected: attention (SDPA or eager) is kept within each text, or it is not, whatever else is asked for.
# Seen: it depends on `use_cache`. With use_cache=False the second text has the logits that it has alone; with the default, True,
# also in training mode, its tokens attend to the first text, without an error or a warning. So the loss of the same batch changes when
# gradient checkpointing is switched on, which sets use_cache=False. An attention mask of ones beside the positions
# undoes the separation too. The rule stands in a comment of masking_utils.py: no mask, and no keys and values of before.
# Exits 0 while it behaves so, 1 when it does not any more. Installs about 3 GB (torch), takes a minute or two.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0
cat > try.py <<'P'
import sys

import torch
import transformers
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

FIRST, SECOND = [1, 2, 3, 4], [9, 8, 7]
batch = DataCollatorWithFlattening()([{"input_ids": FIRST}, {"input_ids": SECOND}])
given = {name: batch[name] for name in ("input_ids", "position_ids")}
assert "attention_mask" not in batch
assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]


def differences(attention):
    """How far the logits of the second text are from those that it has alone, for each way to call the model."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, attn_implementation=attention)).train()
    alone = model(torch.tensor([SECOND])).logits
    ways = {
        "default": {},
        "use_cache=False": {"use_cache": False},
        "use_cache=False, mask of ones": {"use_cache": False, "attention_mask": torch.ones_like(given["input_ids"])},
        "gradient checkpointing": {},
    }
    found = {}
    for name, how in ways.items():
        if name == "gradient checkpointing":
            model.gradient_checkpointing_enable()
        found[name] = (model(**given, **how).logits[:, len(FIRST) :] - alone).abs().max().item()
    return found


print(f"transformers {transformers.__version__}: logits of the second of two packed texts, difference from those of it alone")
as_told = True
for attention in ("sdpa", "eager"):
    found = differences(attention)
    print(f"{attention}: {', '.join(f'{name} {value:.1e}' for name, value in found.items())}")
    mixed = found["default"], found["use_cache=False, mask of ones"]
    apart = found["use_cache=False"], found["gradient checkpointing"]
    as_told = as_told and min(mixed) > 0.01 and max(apart) < 1e-5
sys.exit(0 if as_told else 1)
P
env/bin/python try.py 2> log || { code=$?; tail -n 5 log >&2; exit "$code"; }
! grep -iE "warn.*(pack|position)" log

"""Small random causal models, groups of completions for them, and the reference: Hugging Face, PEFT and torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hybrid.loops import PolicyText

VOCABULARY = 97
END = 1
TARGETS = {"Llama": ("q_proj", "k_proj", "v_proj", "down_proj"), "GPT2": ("c_attn", "mlp.c_proj")}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 80,
        "max_position_embeddings": 64,
    },
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64},
}


def stock(family: str = "Llama", dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A causal model of transformers without dropout; GPT-2's head is tied to its embedding."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        **{**SHAPES[family], "vocab_size": VOCABULARY, "initializer_range": 0.3, **more}
    )
    torch.manual_seed(1)
    kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return getattr(transformers, kind)(config).to(dtype).eval()


def group(seed: int, slot: int = 0, count: int = 4, longest: int = 9) -> list[PolicyText]:
    """Completions of one random prompt, of different lengths; most end with the end token; weights of both signs."""
    draw = random.Random(seed)
    prompt = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(3, 12)))
    texts = []
    for _ in range(count):
        answer = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(1, longest)))
        ids = (*prompt, *answer, *((END,) if draw.random() < 0.8 else ()))
        weight = draw.uniform(-0.1, 0.1)
        texts.append(PolicyText(slot, ids, len(prompt), (weight,) * (len(ids) - len(prompt))))
    return texts


def loss_of(model: Any, texts: Sequence[PolicyText], temperature: float = 1.0) -> torch.Tensor:
    """The loss of texts, each computed alone with all of its logits."""
    return torch.stack(
        [-(of_labels(model, text, temperature) * torch.tensor(text.weights)).sum() for text in texts]
    ).sum()


def of_labels(model: Any, text: PolicyText, temperature: float = 1.0) -> torch.Tensor:
    """The log-probabilities of a text's labels."""
    logits = model(input_ids=torch.tensor([text.ids])).logits[0, text.start - 1 : -1] / temperature
    return -cross_entropy(logits, torch.tensor(text.ids[text.start :]), reduction="none")


def padded_loss(model: Any, texts: Sequence[PolicyText], temperature: float = 1.0) -> torch.Tensor:
    """The loss of texts in one batch, padded on the right to the longest."""
    longest = max(len(text.ids) for text in texts)
    ids = torch.tensor([[*text.ids, *[0] * (longest - len(text.ids))] for text in texts])
    mask = torch.tensor([[1] * len(text.ids) + [0] * (longest - len(text.ids)) for text in texts])
    weights = torch.tensor(
        [[0.0] * text.start + list(text.weights) + [0.0] * (longest - len(text.ids)) for text in texts]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1] / temperature
    each = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (each * weights[:, 1:]).sum()


def with_peft(model: Any, adapter: bytes, targets: Sequence[str], rank: int, alpha: float) -> Any:
    """The model in PEFT's wrapping with an adapter's values."""
    import safetensors.torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    fan = type(model).__name__.startswith("GPT2")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, fan_in_fan_out=fan)
    wrapped = get_peft_model(model, config)
    found = set_peft_model_state_dict(wrapped, safetensors.torch.load(adapter))
    assert not found.unexpected_keys
    return wrapped

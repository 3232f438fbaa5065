"""A small random Llama, training jobs for it, and the reference: the same training with PEFT and torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hybrid.training.jobs import Job, Tokens
from hybrid.training.trainer import Trainer
from hybrid.tuning import Tuning

VOCABULARY = 97
TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")


def tiny_model(dtype: torch.dtype = torch.float32, layers: int = 2) -> Any:
    """Two layers, grouped heads, fixed random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    torch.manual_seed(1)
    return LlamaForCausalLM(config).to(dtype).eval()


def texts(seed: int, count: int, shortest: int = 5, longest: int = 30) -> tuple[Tokens, ...]:
    """Random texts of different lengths, about a third of their tokens labelled."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        length = draw.randint(shortest, longest)
        ids = tuple(draw.randrange(VOCABULARY) for _ in range(length))
        first = draw.randrange(1, length)
        made.append(Tokens(ids, tuple(place >= first for place in range(length))))
    return tuple(made)


def job(name: str, data: int = 0, count: int = 6, **how: Any) -> Job:
    """A job of random texts."""
    settings: dict[str, Any] = {"learning_rate": 3e-3, "epochs": 2, "rank": 4, "alpha": 8.0, "warmup": 1, **how}
    return Job(name, Tuning({"texts": data}, targets=TARGETS, **settings), texts(data, count))


def trainer(model: Any, slots: int = 8, tokens: int = 4096, free: int = 1 << 30) -> Trainer:
    return Trainer(model, TARGETS, slots=slots, tokens=tokens, free=lambda: free)


def by_peft(model: Any, one: Job) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The adapter (PEFT's names) and the losses of `one`, trained alone by PEFT and torch's AdamW on padded batches."""
    from peft.utils import get_peft_model_state_dict

    wrapped = begun_by_peft(model, one)
    how = one.tuning
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=how.weight_decay)
    losses = []
    for step in range(one.steps):
        ids, labels, mask = rectangle([one.texts[index] for index in one.batch(step)])
        logits = wrapped(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        if how.clip:
            torch.nn.utils.clip_grad_norm_(trained, how.clip)
        optimizer.param_groups[0]["lr"] = one.learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    weights = {name: value.detach().clone() for name, value in get_peft_model_state_dict(wrapped).items()}
    wrapped.unload()
    return weights, losses


def begun_by_peft(model: Any, one: Job) -> Any:
    """The model in PEFT's wrapping, with the first values that ours has too."""
    from peft import LoraConfig, get_peft_model

    from hybrid.training.adapters import initial_weights

    how = one.tuning
    config = LoraConfig(r=how.rank, lora_alpha=how.alpha, target_modules=list(how.targets), lora_dropout=0.0)
    wrapped = get_peft_model(model, config)
    adapted = {
        name.removeprefix("base_model.model."): module
        for name, module in wrapped.named_modules()
        if hasattr(module, "lora_A")
    }
    layers = {name: (module.in_features, module.out_features) for name, module in adapted.items()}
    start = initial_weights(layers, how.targets, how.rank, how.alpha, how.seed)
    with torch.no_grad():
        for name, module in adapted.items():
            a, b = start.layers[name]
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
    return wrapped


def rectangle(rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels (-100: none) and mask, padded on the right to the longest."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    labels = torch.tensor(
        [
            [id if on else -100 for id, on in zip(row.ids, row.learned, strict=True)]
            + [-100] * (longest - len(row.ids))
            for row in rows
        ]
    )
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    return ids, labels, mask

"""Small random models of each family that classifiers know, texts for them, and the reference: PEFT and torch."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from hybrid.loops import EncodedText, LabelledText
from hybrid.training.adapters import LoraWeights
from hybrid.training.classifier_model import ClassifierModel
from hybrid.tuning import Tuning

VOCABULARY = 97
POSITIONS = 48
LABELS = 3
SHAPES: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "Roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    "Llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
}
TARGETS = {
    "Bert": ("query", "value", "intermediate.dense"),
    "DistilBert": ("q_lin", "v_lin", "lin1"),
    "Roberta": ("query", "value", "intermediate.dense"),
    "GPT2": ("c_attn", "mlp.c_proj"),
    "Llama": ("q_proj", "v_proj", "down_proj"),
}


def stock(family: str) -> Any:
    """A model of transformers with its head, without dropout."""
    import transformers

    more: dict[str, Any] = {"num_labels": LABELS, "vocab_size": VOCABULARY, "initializer_range": 0.3, "pad_token_id": 0}
    offset = 1 if family == "Roberta" else 0
    more["n_positions" if family == "GPT2" else "max_position_embeddings"] = POSITIONS + offset
    if family == "Llama":
        more["num_key_value_heads"] = 2
    config = getattr(transformers, f"{family}Config")(**SHAPES[family], **more)
    torch.manual_seed(1)
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


def base(family: str) -> ClassifierModel:
    """The base of the same model."""
    return ClassifierModel(stock(family).base_model)


def encoded(draw: random.Random, longest: int = 20, *, typed: bool = False) -> EncodedText:
    """A random text; `typed`: a pair."""
    ids = tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(3, longest)))
    return EncodedText(ids, tuple(int(place >= len(ids) // 2) for place in range(len(ids))) if typed else ())


def batch(seed: int, slot: int = 0, count: int = 5, *, longest: int = 20, typed: bool = False) -> list[LabelledText]:
    """The texts of one step of a slot."""
    draw = random.Random(seed)
    return [
        LabelledText(slot, encoded(draw, longest, typed=typed), draw.randrange(LABELS), 1 / count) for _ in range(count)
    ]


def tuning(**how: Any) -> Tuning:
    """What of a tuning counts for a classifier."""
    return Tuning({}, **{"learning_rate": 1e-2, "epochs": 1, "weight_decay": 0.01, "clip": 0.5, **how})


def by_peft(
    family: str,
    start: LoraWeights,
    head: Mapping[str, torch.Tensor],
    batches: Sequence[Sequence[LabelledText]],
    how: Tuning,
) -> tuple[dict[str, torch.Tensor], list[float], torch.Tensor]:
    """All trained parameters by the names of transformers, the losses, and the logits of the first batch after it."""
    wrapped = _wrapped(family, start, head)
    trained = {name: one for name, one in wrapped.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), how.learning_rate, weight_decay=how.weight_decay)
    losses = []
    for texts in batches:
        logits = wrapped(**rectangle([text.text for text in texts], typed=family == "Bert")).logits
        loss = cross_entropy(logits, torch.tensor([text.label for text in texts]))
        loss.backward()
        if how.clip:
            torch.nn.utils.clip_grad_norm_(trained.values(), how.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        logits = wrapped(**rectangle([text.text for text in batches[0]], typed=family == "Bert")).logits
    return {_plain(name): one.detach() for name, one in trained.items()}, losses, logits


def _wrapped(family: str, start: LoraWeights, head: Mapping[str, torch.Tensor]) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    model = stock(family)
    names = [f"{model.base_model_prefix}.{name}" for name in start.layers]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=start.rank,
        lora_alpha=start.alpha,
        target_modules=names,
        lora_dropout=0.0,
        fan_in_fan_out=family == "GPT2",
        modules_to_save=sorted({name.split(".")[0] for name in head}),
    )
    wrapped = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, one in wrapped.named_parameters():
            if one.requires_grad:
                layer, _, part = _plain(name).rpartition(".")
                key = layer.removeprefix(f"{model.base_model_prefix}.")
                one.copy_(start.layers[key]["AB".index(part)] if key in start.layers else head[_plain(name)])
    return wrapped


def _plain(name: str) -> str:
    """`base_model.model.bert.x.lora_A.default.weight` -> `bert.x.A`; a head's parameter by its own name."""
    name = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
    return name.replace(".lora_A.default.weight", ".A").replace(".lora_B.default.weight", ".B")


def rectangle(texts: Sequence[EncodedText], *, typed: bool) -> dict[str, torch.Tensor]:
    """Ids, mask and types, padded on the right to the longest."""
    longest = max(len(text.ids) for text in texts)

    def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])

    types = {"token_type_ids": padded([text.types or [0] * len(text.ids) for text in texts])} if typed else {}
    mask = padded([[1] * len(text.ids) for text in texts])
    return {"input_ids": padded([text.ids for text in texts]), "attention_mask": mask, **types}

"""Federated clients as one writes them with PEFT: a model for each client, batches padded to their longest text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
import torch
from torch.nn.functional import cross_entropy

from peers.federated import ALPHA, BATCH, CLIENTS, CLIP, HELD_OUT, RANK, RATE, SHAPES, TRAIN, Text, model_of, texts


def peft_model(name: str) -> Any:
    """A client's model, whose adapter is the same for all."""
    kind = peft.TaskType.SEQ_CLS
    config = peft.LoraConfig(
        task_type=kind, r=RANK, lora_alpha=ALPHA, target_modules=list(SHAPES[name][2]), lora_dropout=0.0
    )
    model = peft.get_peft_model(model_of(name), config).eval()
    with torch.no_grad():
        for parameter in (one for key, one in model.named_parameters() if "lora_A" in key):
            draw = torch.Generator().manual_seed(1)
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / parameter.shape[1] ** 0.5)
    return model


class ByPeft:
    """A model with an adapter for each client."""

    def __init__(self, name: str) -> None:
        self.models = [peft_model(name) for _ in range(CLIENTS)]
        first = peft.get_peft_model_state_dict(self.models[0])
        self._global = {name: value.clone() for name, value in first.items()}  # else it is trained with the model
        self._train = [texts(client, TRAIN, "train") for client in range(CLIENTS)]
        self._held_out = [texts(client, HELD_OUT, "held out") for client in range(CLIENTS)]

    def round(self) -> tuple[list[float], float]:
        """`Side`."""
        losses, states = [], []
        for model, own in zip(self.models, self._train, strict=True):
            peft.set_peft_model_state_dict(model, self._global)
            losses += trained_by_peft(model, own)
            states.append(peft.get_peft_model_state_dict(model))
        self._global = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
        right = []
        for model, own in zip(self.models, self._held_out, strict=True):
            peft.set_peft_model_state_dict(model, self._global)
            right.append(accuracy_by_peft(model, own))
        return losses, sum(right) / len(right)


def trained_by_peft(model: Any, own: Sequence[Text]) -> list[float]:
    """Train a client for an epoch; the losses of its first and its last step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE)
    losses = []
    for batch in (own[start : start + BATCH] for start in range(0, len(own), BATCH)):
        loss = cross_entropy(model(**padded(batch)).logits, torch.tensor([text.label for text in batch]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return [losses[0], losses[-1]]


def accuracy_by_peft(model: Any, own: Sequence[Text]) -> float:
    """The share of the texts that a client's model gets right."""
    right = 0
    with torch.no_grad():
        for batch in (own[start : start + BATCH] for start in range(0, len(own), BATCH)):
            found = model(**padded(batch)).logits.argmax(dim=1).tolist()
            right += sum(one == text.label for one, text in zip(found, batch, strict=True))
    return right / len(own)


def padded(batch: Sequence[Text]) -> dict[str, Any]:
    """Ids and mask, padded to the longest text of the batch."""
    longest = max(len(text.ids) for text in batch)
    ids = torch.tensor([[*text.ids, *[0] * (longest - len(text.ids))] for text in batch])
    mask = torch.tensor([[1] * len(text.ids) + [0] * (longest - len(text.ids)) for text in batch])
    return {"input_ids": ids, "attention_mask": mask}

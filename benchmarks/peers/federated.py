"""Models and texts of federated clients, the same for both sides of `fed_round`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import transformers

LENGTHS = (3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 22, 25, 30, 39)
"""Tokens of SST-2's training texts: twenty quantiles of equal weight, with BERT's tokenizer."""
CLIENTS, TRAIN, HELD_OUT, BATCH, RANK, ALPHA, RATE, CLIP = 12, 32, 16, 16, 8, 16.0, 1e-4, 1.0
SHAPES: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "distilbert": ("DistilBert", {}, ("q_lin", "k_lin", "v_lin", "out_lin")),
    "minilm": (
        "Bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        ("query", "key", "value", "attention.output.dense"),
    ),
    "tiny": (
        "Bert",
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
        ("query", "key", "value", "attention.output.dense"),
    ),
}
"""Family, what differs from its usual shape, and the adapted layers."""


class Text(NamedTuple):
    """A text of one client."""

    ids: tuple[int, ...]
    label: int


def texts(client: int, count: int, kind: str) -> list[Text]:
    """Random texts, whose label is that of the parity of their first word."""
    draw = random.Random(f"{client} {kind}")
    found = []
    for _ in range(count):
        ids = [101, *(draw.randrange(1000, 30000) for _ in range(draw.choice(LENGTHS) - 2)), 102]
        found.append(Text(tuple(ids), ids[1] % 2))
    return found


def model_of(name: str) -> Any:
    """The classifier of transformers, without dropout."""
    family, shape, _ = SHAPES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**shape, num_labels=2)
    return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()

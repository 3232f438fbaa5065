"""How an answering model is made of the run's: a LoRA adapter, trained on lessons before the question is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from hybrid.canonical import Json, digest

SEAL_TARGETS = ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers that SEAL adapts: all but the keys' and the attention output's."""

MOST_RANK = 1024


@dataclass(frozen=True, slots=True)
class Tuning:
    """All that shapes an adapter beside the base model. Its digest names the training, on whichever machine it is done.

    `lessons` is handed to the stage's function of that name, which makes the texts. One optimizer step takes `batch`
    texts; the loss is the mean over the labelled tokens of a step. The learning rate warms up over `warmup` steps, then
    follows `schedule` to the last of the epochs (as Hugging Face's schedulers). Optimizer: AdamW (Loshchilov and Hutter
    2019), betas 0.9 and 0.999, eps 1e-8; the gradient's norm is cut at `clip`, 0 for never. The adapter adds
    alpha / rank * B A x (Hu et al. 2021). Raises ValueError for values that cannot be trained with.
    """

    lessons: Mapping[str, Json]
    learning_rate: float
    epochs: int
    rank: int = 128
    alpha: float = 16.0
    targets: tuple[str, ...] = SEAL_TARGETS
    batch: int = 2
    warmup: int = 11
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    learned: Literal["answer", "all"] = "answer"  # which tokens have a loss: the last message's, or all
    padding: Literal["masked", "seal"] = "masked"  # seal: texts are padded to the longest, and padding is learned
    texts: Literal["clean", "seal"] = "clean"  # seal: a second begin token, and an empty assistant turn at the end
    seed: int = 0  # of the adapter's first values and of the order of the lessons
    keep: bool = False  # whether the adapter itself is kept in the run, for later stages
    digest: str = field(init=False, repr=False, compare=False)  # 64 hex digits that name the training

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1):
            raise ValueError("learning_rate lies over 0 and not over 1")
        if not (1 <= self.rank <= MOST_RANK and math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"rank is 1 to {MOST_RANK}, alpha is over 0")
        if not (1 <= self.epochs <= 1000 and 1 <= self.batch <= 4096 and 0 <= self.warmup <= 1_000_000):
            raise ValueError("epochs is 1 to 1000, batch 1 to 4096, warmup 0 to 1000000")
        if not (0 <= self.weight_decay < 1 and math.isfinite(self.clip) and self.clip >= 0):
            raise ValueError("weight_decay lies from 0 to under 1, clip is 0 or more")
        if not self.targets or not 0 <= self.seed < 2**32:
            raise ValueError("targets are named, seed is 0 to 4294967295")
        object.__setattr__(self, "digest", digest(self.to_json()))  # once: every item of a task asks for it

    def to_json(self) -> dict[str, Json]:
        """All that the digest is of."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.init}
        return {**told, "targets": list(self.targets)}

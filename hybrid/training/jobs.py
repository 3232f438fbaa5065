"""Training jobs, their tokenized texts, and their results."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.tuning import Tuning

if TYPE_CHECKING:
    from hybrid.training.adapters import LoraWeights


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenized training text: its token ids, and for each whether it has a label (the first one never has).

    The last `padding` tokens are trained padding, as in SEAL: no token attends to them.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    padding: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.learned) or not 0 <= self.padding < max(1, len(self.ids)):
            raise ValueError("a text needs as many labels as tokens, and at least one token that is no padding")

    @property
    def labelled(self) -> int:
        """The number of tokens with a label."""
        return sum(self.learned[1:])


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train: how, on which texts, and on top of which adapter (`start`, which stays unchanged).

    `error` says why there are no texts.
    """

    name: str
    tuning: Tuning
    texts: tuple[Tokens, ...]
    start: LoraWeights | None = None
    error: str = ""

    @property
    def steps(self) -> int:
        """Optimizer steps in all epochs."""
        return math.ceil(len(self.texts) / self.tuning.batch) * self.tuning.epochs

    @property
    def tokens(self) -> int:
        """Tokens in all epochs."""
        return sum(len(text.ids) for text in self.texts) * self.tuning.epochs

    @property
    def rank(self) -> int:
        """The rank of the new adapter and of `start` together."""
        return self.tuning.rank + (self.start.rank if self.start else 0)

    def batch(self, step: int) -> list[int]:
        """The indices of the texts of step number `step`: every epoch has each text once, in its own order."""
        size, each = self.tuning.batch, math.ceil(len(self.texts) / self.tuning.batch)
        order = list(range(len(self.texts)))
        random.Random(f"{self.tuning.seed} {step // each}").shuffle(order)
        return order[step % each * size :][:size]

    def learning_rate(self, step: int) -> float:
        """The learning rate of step number `step`, from 0: the schedules of Hugging Face's `get_scheduler`."""
        how = self.tuning
        if step < how.warmup:
            return how.learning_rate * step / how.warmup
        if how.schedule == "constant":
            return how.learning_rate
        share = (step - how.warmup) / max(1, self.steps - how.warmup)
        fall = 1 - share if how.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))
        return how.learning_rate * max(0.0, fall)


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished job. `losses` holds one mean per step; `skipped` counts steps whose gradient was not finite.

    A job that could not be trained has no adapter, and `error` says why.
    """

    job: Job
    adapter: LoraWeights | None
    losses: tuple[float, ...] = ()
    skipped: int = 0
    error: str = ""


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The order in which jobs are started: a long job that starts last would be alone in many passes."""
    return sorted(jobs, key=lambda job: (-job.tokens, job.name))

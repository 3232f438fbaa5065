"""What is trained and what comes of it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.tuning import Tuning

if TYPE_CHECKING:
    from hybrid.training.adapters import Weights


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training text: its token ids, and for each whether it is to be predicted (the first one never can be).

    The last `padding` of them are padding as SEAL trains it: other tokens do not see it, nor does it see itself.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    padding: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.learned) or not 0 <= self.padding < max(1, len(self.ids)):
            raise ValueError("a text needs as many labels as tokens, and at least one token that is no padding")

    @property
    def labelled(self) -> int:
        """How many tokens have a loss."""
        return sum(self.learned[1:])


@dataclass(frozen=True, slots=True)
class Job:
    """One adapter to train: how, on which texts, and from which adapter on (`start`, whose values stay as they are).

    `error` says why there are no texts.
    """

    name: str
    tuning: Tuning
    texts: tuple[Tokens, ...]
    start: Weights | None = None
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
        """The rank of the adapter with that of `start`."""
        return self.tuning.rank + (self.start.rank if self.start else 0)

    def batch(self, step: int) -> list[int]:
        """Which texts step number `step` takes: every epoch takes each text once, in an order of its own."""
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
    """A finished job. `losses` holds one mean a step; `skipped` counts steps whose gradient was not finite.

    A job that could not be trained has no adapter and says why in `error`.
    """

    job: Job
    adapter: Weights | None
    losses: tuple[float, ...] = ()
    skipped: int = 0
    error: str = ""


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The order in which jobs are begun: a long one begun last would be alone in its passes for long."""
    return sorted(jobs, key=lambda job: (-job.tokens, job.name))

"""The progress of a job in its slot."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hybrid.canonical import Json
from hybrid.training.jobs import Job
from hybrid.training.out_of_memory import fits


@dataclass(slots=True)
class JobProgress:
    """The current step, its remaining texts, and the losses of the steps before.

    Results are copied from the device only by `settle`, so that not every pass synchronises with it.
    """

    job: Job
    step: int = 0
    remaining: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    labels: int = 0  # labelled tokens in the whole step
    loss: torch.Tensor | None = None  # of this step so far
    pending: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)  # (loss, 1 if skipped) of steps

    @property
    def finished(self) -> bool:
        return self.step >= self.job.steps

    def begin(self) -> None:
        """Choose the texts of the current step, if there is one."""
        if not self.finished:
            batch = self.job.batch(self.step)
            self.remaining = batch
            self.labels = sum(self.job.texts[index].labelled for index in batch)

    def restart(self) -> None:
        """Start the current step again."""
        self.loss = None
        self.begin()

    def stepped(self, skipped: torch.Tensor) -> None:
        """Finish the step; `skipped` is 1 when its gradient was not finite."""
        if self.loss is not None:
            self.pending.append((self.loss, skipped))
        self.loss = None
        self.step += 1
        self.begin()

    def settle(self) -> None:
        """Copy the pending losses from the device."""
        if self.pending:
            pairs: list[list[float]] = []
            if not fits(lambda: pairs.extend(torch.stack([torch.stack(pair) for pair in self.pending]).tolist())):
                pairs = [[float(loss), float(skipped)] for loss, skipped in self.pending]
            self.losses += [loss for loss, _ in pairs]
            self.skipped += int(sum(skipped for _, skipped in pairs))
            self.pending = []

    def to_json(self) -> dict[str, Json]:
        """The progress as a checkpoint stores it."""
        self.settle()
        return {
            "job": self.job.name,
            "step": self.step,
            "left": list(self.remaining),
            "losses": list(self.losses),
            "skipped": self.skipped,
            "loss": None if self.loss is None else float(self.loss),
        }

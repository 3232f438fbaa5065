"""Where a job stands in its slot."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hybrid.canonical import Json
from hybrid.training.jobs import Job


@dataclass(slots=True)
class Progress:
    """The step, which texts of it are left, and what the losses of the steps before were.

    What the device has computed is asked for only by `settle`, so that it is not waited for after every pass.
    """

    job: Job
    step: int = 0
    left: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    labels: int = 0  # labelled tokens in the whole step
    loss: torch.Tensor | None = None  # of this step so far
    waiting: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)  # (loss, 1 if skipped) of steps

    @property
    def over(self) -> bool:
        return self.step >= self.job.steps

    def begin(self) -> None:
        """Take the texts of the step, if there is one."""
        if not self.over:
            batch = self.job.batch(self.step)
            self.left = batch
            self.labels = sum(self.job.texts[index].labelled for index in batch)

    def stepped(self, skipped: torch.Tensor) -> None:
        """The step is done; `skipped` is 1 when its gradient was not finite."""
        if self.loss is not None:
            self.waiting.append((self.loss, skipped))
        self.loss = None
        self.step += 1
        self.begin()

    def settle(self) -> None:
        """Turn what waits on the device into numbers."""
        if self.waiting:
            pairs = torch.stack([torch.stack(pair) for pair in self.waiting]).tolist()
            self.losses += [loss for loss, _ in pairs]
            self.skipped += int(sum(skipped for _, skipped in pairs))
            self.waiting = []

    def to_json(self) -> dict[str, Json]:
        """What a checkpoint keeps."""
        self.settle()
        return {
            "job": self.job.name,
            "step": self.step,
            "left": list(self.left),
            "losses": list(self.losses),
            "skipped": self.skipped,
            "loss": None if self.loss is None else float(self.loss),
        }

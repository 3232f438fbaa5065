"""Trains jobs over one model: plans the memory, then starts a session or resumes it from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from hybrid.errors import BadData, CannotRun
from hybrid.training import checkpoint
from hybrid.training.jobs import Job, Trained
from hybrid.training.measure import pass_costs
from hybrid.training.memory import MemoryPlan, PassCosts, Work, aligned, choose_plan
from hybrid.training.out_of_memory import fits, is_out_of_memory
from hybrid.training.packed_model import PackedModel
from hybrid.training.session import TrainingSession

LOG = logging.getLogger("hybrid")


class Trainer(PackedModel):
    """Trains jobs over one Hugging Face causal model. It must be used from one thread.

    A pass has at most `slots` adapters and `tokens` tokens; `free` returns the free bytes of the device.
    """

    def __init__(self, model: Any, targets: Sequence[str], *, slots: int, tokens: int, free: Callable[[], int]) -> None:
        with _no_internal_error():
            super().__init__(model, targets)
        self.slots, self.tokens, self._free = slots, tokens, free
        self._costs: dict[int, int] = {}

    def train(
        self,
        jobs: Iterable[Job],
        *,
        resume: bytes | None = None,
        after_pass: Callable[[Callable[[], bytes]], None] = lambda state: None,
    ) -> Iterator[Trained]:
        """Train `jobs` and yield each as it is done, in any order; jobs without a text or a label are errors.

        After every pass `after_pass` is called with a function that returns the checkpoint as bytes. `resume` is such a
        checkpoint of the same jobs; jobs that had been yielded before it are not yielded again. Resuming gives
        bit-identical adapters on the same machine. A pass that runs out of memory is redone in smaller ones. Raises
        CannotRun when training does not fit, also not one text of one adapter, and when memory is lacking outside the
        passes; BadData for a checkpoint of other jobs.
        """
        todo: list[Job] = []
        for job in jobs:
            if wrong := _untrainable(job):
                yield Trained(job, None, error=wrong)
            else:
                todo.append(job)
        if not todo:
            return
        with self.packed(), _no_internal_error():
            planned = self.planned(todo)
            fitting = []
            for job in todo:
                if planned.cost(*_largest(job, planned)) <= planned.activations:
                    fitting.append(job)
                else:
                    yield Trained(job, None, error=f"its longest text does not fit: {planned.explain()}")
            LOG.info("training plan: %s", planned.explain())
            before = self._allocated(reset=True)
            yield from self._session(fitting, planned, resume).run(after_pass)
            if before is not None and (used := (self._allocated() or 0) - before) > planned.peak:
                LOG.warning(
                    "training took %d MiB more than planned: %s", (used - planned.peak) >> 20, planned.explain()
                )

    def _allocated(self, *, reset: bool = False) -> int | None:
        """The peak of allocated bytes on a CUDA device since the last reset; None elsewhere."""
        if self.device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return int(torch.cuda.max_memory_allocated(self.device))

    def _session(self, jobs: Sequence[Job], planned: MemoryPlan, resume: bytes | None) -> TrainingSession:
        if resume is None:
            return TrainingSession(self, jobs, planned)
        saved = checkpoint.read(resume)
        session = TrainingSession(self, jobs, saved.plan(planned))
        if session.plan.slots != saved.metadata["plan"]["slots"] or not fits(partial(saved.restore, session)):
            raise BadData("the training that is to go on needs more memory than is free")
        return session

    def planned(self, jobs: Sequence[Job]) -> MemoryPlan:
        """The memory plan for training `jobs`. Raises CannotRun, with the arithmetic, when none of them fits.

        Activation checkpointing is considered where memory limits the tokens of a pass.
        """
        rank, slots = max(job.rank for job in jobs), min(self.slots, len(jobs))
        parameters = sum(aligned(rank) * sum(widths) for widths in self.slotted.layers.values())
        step_tokens = sum(job.tokens for job in jobs) / sum(job.steps for job in jobs)
        frozen = any(job.start for job in jobs)
        return choose_plan(
            lambda checkpointed: self._measured(rank, checkpointed=checkpointed),
            lambda costs: Work([_largest(job, costs) for job in jobs], step_tokens, parameters, frozen),
            slots=slots,
            tokens=self.tokens,
            free=self._free(),
            cpu=self.device.type == "cpu",
            ways=(False, True) if self.layers else (False,),
        )

    def _measured(self, rank: int, *, checkpointed: bool) -> PassCosts | None:
        """The costs of a pass; None without memory for measuring them."""
        found = list[PassCosts]()
        fits(lambda: found.append(pass_costs(self, rank, checkpointed=checkpointed)))
        return found[0] if found else None


@contextmanager
def _no_internal_error() -> Iterator[None]:
    """Memory that is lacking outside a pass is a condition of the machine. Raises CannotRun."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise CannotRun(
            f"the device's memory does not suffice for training: {str(error).partition(chr(10))[0]:.300}",
            hint="end other programs that use the device (nvidia-smi lists those of a GPU), or take a smaller model",
        ) from error


def _largest(job: Job, costs: PassCosts | MemoryPlan) -> tuple[int, int]:
    """Tokens and labels of the job's text that needs the most memory."""
    cost = costs.of_text if isinstance(costs, PassCosts) else costs.cost
    return max(((len(text.ids), text.labelled) for text in job.texts), key=lambda text: cost(*text))


def _untrainable(job: Job) -> str:
    if job.error:
        return job.error
    if not job.texts:
        return "there is no text to train on"
    if not any(text.labelled for text in job.texts):
        return "no token of its texts has a label"
    return ""

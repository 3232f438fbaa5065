"""Trains jobs over one model: plans the memory, then starts a session or resumes it from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from hybrid.errors import BadData, Temporary
from hybrid.training import checkpoint
from hybrid.training.jobs import Job, Tokens, Trained
from hybrid.training.memory import BYTES_PER_LOGIT, MemoryPlan, plan_memory, saved_bytes
from hybrid.training.out_of_memory import fits, is_out_of_memory
from hybrid.training.packed_model import PackedModel
from hybrid.training.packing import PackedText
from hybrid.training.session import TrainingSession
from hybrid.training.slots import AdapterBank, Route, aligned

LOG = logging.getLogger("hybrid")
PROBE_TOKENS = 64
"""Tokens of the short pack; one three times as long is compared with it to measure the bytes per token."""


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
        CannotRun when training does not fit, also not one text of one adapter; BadData for a checkpoint of other jobs;
        Temporary when memory is lacking outside the passes.
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
                if planned.cost(*_largest(job, planned.per_token, planned.per_label)) <= planned.activations:
                    fitting.append(job)
                else:
                    yield Trained(job, None, error=f"its longest text does not fit: {planned.explain()}")
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
        """The memory plan for training `jobs`. Raises CannotRun, with the arithmetic, when none of them fits."""
        rank = max(job.rank for job in jobs)
        parameters = sum(aligned(rank) * sum(widths) for widths in self.slotted.layers.values())
        per_token, per_label = self._cost_of(rank), BYTES_PER_LOGIT * self.vocabulary
        return plan_memory(
            [_largest(job, per_token, per_label) for job in jobs],
            slots=min(self.slots, len(jobs)),
            tokens=self.tokens,
            parameters=parameters,
            per_token=per_token,
            per_label=per_label,
            free=self._free(),
        )

    def _cost_of(self, rank: int) -> int:
        """Bytes that a token keeps for the backward pass, measured once for each rank."""
        if rank not in self._costs:
            with self.packed():
                small, large = (self._saved(rank, tokens) for tokens in (PROBE_TOKENS, 3 * PROBE_TOKENS))
            self._costs[rank] = max(1, (large - small) // (2 * PROBE_TOKENS))
        return self._costs[rank]

    def _saved(self, rank: int, tokens: int) -> int:
        bank = AdapterBank(self.slotted.layers, 1, rank, self.model, training=True)
        text = Tokens((0,) * tokens, (False,) * (tokens - 1) + (True,))
        one = self.pack([PackedText(0, text, 1.0)], 1)
        return saved_bytes(lambda: self.logits_of(one, Route(bank, one.lengths, self.dtype)))


@contextmanager
def _no_internal_error() -> Iterator[None]:
    """Memory that is lacking outside a pass is a condition of the machine. Raises Temporary."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise Temporary(
            f"the device's memory does not suffice for training: {str(error).partition(chr(10))[0]:.300}",
            hint="end other programs that use the device, or take a smaller model or a larger device",
        ) from error


def _largest(job: Job, per_token: int, per_label: int) -> tuple[int, int]:
    """Tokens and labels of the job's text that needs the most memory."""
    texts = [(len(text.ids), text.labelled) for text in job.texts]
    return max(texts, key=lambda text: text[0] * per_token + text[1] * per_label)


def _untrainable(job: Job) -> str:
    if job.error:
        return job.error
    if not job.texts:
        return "there is no text to train on"
    if not any(text.labelled for text in job.texts):
        return "no token of its texts has a label"
    return ""

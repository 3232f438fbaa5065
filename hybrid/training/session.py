"""The training of a list of jobs: they wait in a queue, and K of them train in slots, in the same passes.

A pass is filled with texts of the slots' current steps, up to the limits of the memory plan. When the step of a slot is
complete, its optimizer steps. When the job of a slot is done, its adapter is exported and the next job starts. A step
that does not fit one pass accumulates gradients over several. All of it is determined by the jobs and the plan: no
clock and no global random state is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from hybrid.errors import CannotRun
from hybrid.training import adapters, checkpoint
from hybrid.training.jobs import Job, Trained, longest_first
from hybrid.training.memory import SMALLER, MemoryPlan
from hybrid.training.out_of_memory import fits
from hybrid.training.packed_model import PackedModel
from hybrid.training.packing import PackedText
from hybrid.training.progress import JobProgress
from hybrid.training.trainable import TrainableBank

LOG = logging.getLogger("hybrid")


class TrainingSession:
    """The training of one list of jobs."""

    def __init__(self, model: PackedModel, jobs: Sequence[Job], plan: MemoryPlan) -> None:
        self.model, self.plan = model, plan
        self.rank = max(job.rank for job in jobs)
        self.queue = longest_first(jobs)
        self.next = 0  # index in the queue of the next job
        self.slots: list[JobProgress | None] = []
        if not fits(partial(self._open, plan)):
            self._take_fewer_slots()

    def _open(self, plan: MemoryPlan) -> None:
        """Empty slots, as many as `plan` has."""
        self.plan = plan
        self.bank = TrainableBank(self.model, plan.slots, self.rank, checkpointed=plan.checkpointed)
        self.slots = [None] * plan.slots
        self.first_slot = 0  # the slot whose texts are chosen first

    def run(self, after_pass: Callable[[Callable[[], bytes]], None]) -> Iterator[Trained]:
        """Run passes until the queue and all slots are empty."""
        self._fill()
        while any(self.slots):
            stepped = self._pass()
            done = [self._finished(slot) for slot in stepped if self._progress_of(slot).finished]
            self._fill()
            yield from done
            after_pass(lambda: checkpoint.state(self))

    def begin(self, slot: int, progress: JobProgress) -> None:
        """Start a job in a slot: new ranks after those of its `start`, which are frozen."""
        job, how = progress.job, progress.job.tuning
        weights = adapters.initial_weights(self.model.slotted.layers, how.targets, how.rank, how.alpha, how.seed)
        if job.start:
            weights = weights.stacked_on(job.start)
        self.bank.put(slot, weights, how, frozen=job.start.rank if job.start else 0)
        self.slots[slot] = progress

    def _fill(self) -> None:
        while not fits(self._begin_next):
            self._take_fewer_slots()

    def _begin_next(self) -> None:
        for slot, held in enumerate(self.slots):
            if held is None and self.next < len(self.queue):
                progress = JobProgress(self.queue[self.next])
                progress.begin()
                self.begin(slot, progress)
                self.next += 1

    def _pass(self) -> list[int]:
        """One forward and backward pass, and the optimizer steps that it completes. Returns the slots that stepped.

        Without memory for it, the steps of its slots start again, in passes of half its size from now on.
        """
        first, entries, stepped = self.first_slot, self._chosen(), list[int]()
        if not fits(partial(self._attempt, entries, stepped)):
            self.first_slot = first
            for slot in {entry.slot for entry in entries}:
                self.bank.forget_gradients(slot)
                self._progress_of(slot).restart()
            self._take_less(entries)
        return stepped

    def _attempt(self, entries: Sequence[PackedText], stepped: list[int]) -> None:
        """The pass over `entries`. The slots that stepped are appended to `stepped` one by one."""
        one = self.model.pack(entries, self.plan.slots)
        self.model.passes += 1
        self.model.computed += sum(one.lengths)
        self.model.logits += len(one.rows)
        losses = self.bank.backward(one)
        for slot in sorted({entry.slot for entry in entries}):
            progress = self._progress_of(slot)
            progress.loss = losses[slot] if progress.loss is None else progress.loss + losses[slot]
            if not progress.remaining:
                progress.stepped(self.bank.step(slot, progress.job.learning_rate(progress.step)))
                self.model.steps += 1
                stepped.append(slot)

    def _take_less(self, entries: Sequence[PackedText]) -> None:
        """Halve the passes after `entries` did not fit; when it was one text, halve the slots."""
        tokens = sum(len(entry.text.ids) for entry in entries)
        if len(entries) == 1:
            self._take_fewer_slots(f"a pass of one text of {tokens:,} tokens")
            return
        used = sum(self.plan.cost(len(entry.text.ids), entry.text.labelled) for entry in entries)
        self.plan = self.plan.halved(tokens, used)
        LOG.warning(
            "a pass of %d tokens ran out of memory; from now on passes have %d tokens", tokens, self.plan.tokens
        )

    def _take_fewer_slots(self, what: str = "an adapter") -> None:
        """Halve the slots. The jobs with the most steps done keep theirs; the others start again later.

        Raises CannotRun when there is one slot only: `what` did not fit.
        """
        held = [slot for slot, progress in enumerate(self.slots) if progress]
        held.sort(key=lambda slot: -self._progress_of(slot).step)
        kept = [(self._progress_of(slot), self.bank.state(slot)) for slot in held]
        while True:
            if self.plan.slots == 1:
                raise CannotRun(
                    f"training ran out of memory with the least that it can take, {what}: {self.plan.explain()}",
                    hint=f"{SMALLER}; nvidia-smi lists the programs that use a GPU",
                )
            count = self.plan.slots // 2
            self._put_back([progress.job for progress, _ in kept[count:]])
            kept = kept[:count]
            LOG.warning("%s ran out of memory; from now on %d adapters are trained at once", what, count)
            self.plan = replace(self.plan, slots=count)
            if fits(partial(self._reopen, kept)):
                return

    def _reopen(self, kept: Sequence[tuple[JobProgress, dict[str, torch.Tensor]]]) -> None:
        """New slots, with jobs that go on; the memory of the old ones is freed before."""
        self.__dict__.pop("bank", None)
        self._open(self.plan)
        for slot, (progress, tensors) in enumerate(kept):
            self.begin(slot, progress)
            self.bank.restore(slot, tensors)

    def _put_back(self, jobs: Sequence[Job]) -> None:
        """Return started jobs to the queue, as the next ones."""
        names = {job.name for job in jobs}
        started = [job for job in self.queue[: self.next] if job.name not in names]
        self.queue = [*started, *jobs, *self.queue[self.next :]]
        self.next = len(started)

    def _chosen(self) -> list[PackedText]:
        """The texts of the next pass: the slots in turn, each with as many texts of its step as fit, at least one in
        all.
        """
        entries: list[PackedText] = []
        used = tokens = 0
        count = len(self.slots)
        for slot in [(self.first_slot + ahead) % count for ahead in range(count)]:
            progress = self.slots[slot]
            while progress and progress.remaining:
                text = progress.job.texts[progress.remaining[0]]
                cost = self.plan.cost(len(text.ids), text.labelled)
                size = len(text.ids)
                if entries and (used + cost > self.plan.activations or tokens + size > self.plan.tokens):
                    self.first_slot = slot  # it is first in the next pass
                    return entries
                used, tokens = used + cost, tokens + size
                entries.append(PackedText(slot, text, 1.0 / max(1, progress.labels)))
                del progress.remaining[0]
        return entries

    def _finished(self, slot: int) -> Trained:
        progress = self._progress_of(slot)
        self.slots[slot] = None
        progress.settle()
        return Trained(progress.job, self.bank.weights(slot), tuple(progress.losses), progress.skipped)

    def _progress_of(self, slot: int) -> JobProgress:
        progress = self.slots[slot]
        if progress is None:
            raise RuntimeError(f"slot {slot} is empty")
        return progress

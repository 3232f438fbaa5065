"""The training loop: jobs wait in a queue, and K of them train in slots, independently but in the same passes.

A pass is filled with texts of the slots' current steps, up to the limits of the memory plan. When the step of a slot is
complete, its optimizer steps. When the job of a slot is done, its adapter is exported and the next job starts. A step
that does not fit one pass accumulates gradients over several. All of it is determined by the jobs and the plan: no
clock and no global random state is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.errors import BadData, CannotRun, Temporary
from hybrid.training import adapters, checkpoint
from hybrid.training.attention import NAME, packed_layout, varlen_works
from hybrid.training.jobs import Job, Tokens, Trained, longest_first
from hybrid.training.memory import BYTES_PER_LOGIT, MemoryPlan, plan_memory, saved_bytes
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.out_of_memory import fits, is_out_of_memory
from hybrid.training.packing import Pack, PackedText, pack
from hybrid.training.progress import JobProgress
from hybrid.training.slots import AdapterBank, Route, SlottedModel, aligned

LOG = logging.getLogger("hybrid")
PROBE_TOKENS = 64
"""Tokens of the short pack; one three times as long is compared with it to measure the bytes per token."""


class Trainer:
    """Trains adapters over one Hugging Face causal model, which is not changed. It must be used from one thread.

    A pass has at most `slots` adapters and `tokens` tokens; `free` returns the free bytes of the device.
    """

    def __init__(self, model: Any, targets: Sequence[str], *, slots: int, tokens: int, free: Callable[[], int]) -> None:
        self.model, self.slots, self.tokens, self._free = model, slots, tokens, free
        self.device, self.dtype = model.device, model.dtype
        with _no_internal_error():
            self.slotted = SlottedModel(model, targets, group_inputs=True)
        self._varlen = varlen_works(self.device, self.dtype, *_heads(model.config))
        self._costs: dict[int, int] = {}
        self.computed = self.logits = self.passes = self.steps = 0  # tokens, logit rows, passes, optimizer steps so far

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
        per_token, per_label = self._cost_of(rank), BYTES_PER_LOGIT * self._vocabulary()
        return plan_memory(
            [_largest(job, per_token, per_label) for job in jobs],
            slots=min(self.slots, len(jobs)),
            tokens=self.tokens,
            parameters=parameters,
            per_token=per_token,
            per_label=per_label,
            free=self._free(),
        )

    def logits_of(self, pack: Pack, route: Route) -> torch.Tensor:
        """The logits [labelled rows, vocabulary] of a pack."""
        with self.slotted.routed(route), packed_layout(pack.layout):
            answer = self.model(
                input_ids=pack.ids, position_ids=pack.positions, use_cache=False, logits_to_keep=pack.rows
            )
        logits: torch.Tensor = answer.logits[0]
        return logits

    def close(self) -> None:
        """Restore the model."""
        self.slotted.close()

    @contextmanager
    def packed(self) -> Iterator[None]:
        """Within this context, the model uses packed attention."""
        before = self.model.config._attn_implementation  # noqa: SLF001  (there is no public accessor)
        self.model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def pack(self, entries: Sequence[PackedText], slots: int) -> Pack:
        """The pack of `entries` for this device."""
        return pack(entries, slots, self.device, varlen=self._varlen)

    def _vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

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


class TrainingSession:
    """The training of one list of jobs."""

    def __init__(self, trainer: Trainer, jobs: Sequence[Job], plan: MemoryPlan) -> None:
        self.trainer, self.plan = trainer, plan
        self.rank = max(job.rank for job in jobs)
        self.queue = longest_first(jobs)
        self.next = 0  # index in the queue of the next job
        self.slots: list[JobProgress | None] = []
        if not fits(partial(self._open, plan)):
            self._take_fewer_slots()

    def _open(self, plan: MemoryPlan) -> None:
        """Empty slots, as many as `plan` has."""
        trainer, self.plan = self.trainer, plan
        self.bank = AdapterBank(trainer.slotted.layers, plan.slots, self.rank, trainer.model, training=True)
        self.optimizer = SlotAdamW(self.bank, scaled=trainer.dtype == torch.float16)
        self.slots = [None] * plan.slots
        self.shapes: dict[int, adapters.LoraWeights] = {}  # slot -> its initial weights, for the shapes of the result
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
        job, layers = progress.job, self.trainer.slotted.layers
        how = job.tuning
        weights = adapters.initial_weights(layers, how.targets, how.rank, how.alpha, how.seed)
        frozen = None
        if job.start:
            weights = weights.stacked_on(job.start)
            frozen = _first_ranks(self.bank, job.start.rank)
        adapters.load(self.bank, slot, weights)
        self.optimizer.begin(slot, how, frozen)
        self.slots[slot], self.shapes[slot] = progress, weights

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
                self.optimizer.forget_gradients(slot)
                self._progress_of(slot).restart()
            self._take_less(entries)
        return stepped

    def _attempt(self, entries: Sequence[PackedText], stepped: list[int]) -> None:
        """The pass over `entries`. The slots that stepped are appended to `stepped` one by one."""
        one = self.trainer.pack(entries, self.plan.slots)
        self.trainer.passes += 1
        self.trainer.computed += sum(one.lengths)
        self.trainer.logits += len(one.rows)
        losses = self._backward(one)
        for slot in sorted({entry.slot for entry in entries}):
            progress = self._progress_of(slot)
            progress.loss = losses[slot] if progress.loss is None else progress.loss + losses[slot]
            if not progress.remaining:
                progress.stepped(self.optimizer.step(slot, progress.job.learning_rate(progress.step)))
                self.trainer.steps += 1
                stepped.append(slot)

    def _take_less(self, entries: Sequence[PackedText]) -> None:
        """Halve the passes after `entries` did not fit; when it was one text, halve the slots."""
        tokens = sum(len(entry.text.ids) for entry in entries)
        if len(entries) == 1:
            self._take_fewer_slots(f"a pass of one text of {tokens:,} tokens")
            return
        labels = sum(entry.text.labelled for entry in entries)
        self.plan = self.plan.halved(tokens, labels)
        LOG.warning(
            "a pass of %d tokens ran out of memory; from now on passes have %d tokens", tokens, self.plan.tokens
        )

    def _take_fewer_slots(self, what: str = "an adapter") -> None:
        """Halve the slots. The jobs with the most steps done keep theirs; the others start again later.

        Raises CannotRun when there is one slot only: `what` did not fit.
        """
        held = [slot for slot, progress in enumerate(self.slots) if progress]
        held.sort(key=lambda slot: -self._progress_of(slot).step)
        kept = [(self._progress_of(slot), checkpoint.tensors_of(self, slot)) for slot in held]
        while True:
            if self.plan.slots == 1:
                raise CannotRun(
                    f"training ran out of memory with the least that it can take, {what}: {self.plan.explain()}",
                    hint="take a smaller rank (--set rank=16), shorter texts, a smaller model or a larger device; "
                    "nvidia-smi lists the programs that use a GPU",
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
        for name in ("bank", "optimizer"):
            self.__dict__.pop(name, None)
        self._open(self.plan)
        for slot, (progress, tensors) in enumerate(kept):
            self.begin(slot, progress)
            self.bank.values[slot].copy_(tensors["values"])
            self.optimizer.restore(slot, tensors)

    def _put_back(self, jobs: Sequence[Job]) -> None:
        """Return started jobs to the queue, as the next ones."""
        names = {job.name for job in jobs}
        started = [job for job in self.queue[: self.next] if job.name not in names]
        self.queue = [*started, *jobs, *self.queue[self.next :]]
        self.next = len(started)

    def _backward(self, one: Pack) -> torch.Tensor:
        """Accumulate the gradients of all slots in the bank.

        Returns the slots' unscaled losses [slots], on the device.
        """
        route = Route(self.bank, one.lengths, self.trainer.dtype)
        logits = self.trainer.logits_of(one, route)
        each = F.cross_entropy(logits.to(self.bank.values.dtype), one.targets, reduction="none") * one.weight
        (each * self.optimizer.scale[one.slot]).sum().backward()
        return each.new_zeros(self.plan.slots).index_add_(0, one.slot, each.detach())

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
        weights = adapters.extract(self.bank, slot, self.shapes.pop(slot))
        return Trained(progress.job, weights, tuple(progress.losses), progress.skipped)

    def _progress_of(self, slot: int) -> JobProgress:
        progress = self.slots[slot]
        if progress is None:
            raise RuntimeError(f"slot {slot} is empty")
        return progress


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


def _first_ranks(bank: AdapterBank, count: int) -> torch.Tensor:
    """A mask [N] of the slot's parameters that belong to the first `count` ranks."""
    marks = torch.zeros(1, bank.size, dtype=torch.bool)
    for name in bank.places:
        a, b = bank.pair(marks, name)
        a[:, :, :count] = True
        b[:, :count] = True
    return marks[0]


def _heads(config: Any) -> tuple[int, int, int]:
    text = config.get_text_config(decoder=True)
    shared = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.num_attention_heads, shared, width

"""The loop: jobs wait in a queue, K of them train in slots, each at its own pace, all in the same passes.

A pass is filled with the texts of the slots' current steps up to the plan's bytes. A slot whose step is complete is
stepped; a slot whose job is done is exported and given the next job at once. A step that does not fit one pass is
gathered over several. All of it follows from the jobs and the plan alone: no clock and no global random state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from hybrid.errors import Temporary
from hybrid.training import adapters, checkpoint
from hybrid.training.attention import NAME, laid_out, one_call_works
from hybrid.training.jobs import Job, Tokens, Trained, longest_first
from hybrid.training.memory import LOGITS, Plan, plan, saved_bytes
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.packing import Entry, Pack, pack
from hybrid.training.progress import Progress
from hybrid.training.slots import Bank, Route, Slots, aligned

LOG = logging.getLogger("hybrid")
PROBE = 64
"""Tokens of the two short packs whose difference tells what a token keeps."""


class Trainer:
    """Trains adapters over one Hugging Face causal model, which stays as it is; use it from one thread.

    `slots` is the most adapters in a pass, `tokens` the most tokens; `free` tells the free bytes of the device.
    """

    def __init__(self, model: Any, targets: Sequence[str], *, slots: int, tokens: int, free: Callable[[], int]) -> None:
        self.model, self.slots, self.tokens, self._free = model, slots, tokens, free
        self.device, self.dtype = model.device, model.dtype
        self.wired = Slots(model, targets, together=True)
        self._one_call = one_call_works(self.device, self.dtype, *_heads(model.config))
        self._costs: dict[int, int] = {}
        self.computed = self.logits = self.passes = self.steps = 0  # tokens, logit rows, passes, optimizer steps so far

    def train(
        self,
        jobs: Iterable[Job],
        *,
        resume: bytes | None = None,
        after_pass: Callable[[Callable[[], bytes]], None] = lambda state: None,
    ) -> Iterator[Trained]:
        """Train `jobs` and yield each as it is done, in whatever order; jobs of no text or no label are errors.

        After every pass `after_pass` is called with a function that gives the state as bytes; `resume` are such bytes
        of the same jobs, of which those that had been yielded are not yielded again. Going on gives the same adapters
        to the bit on the same machine. Raises CannotRun when it does not fit, BadData for a foreign state, Temporary
        when the device fails.
        """
        todo: list[Job] = []
        for job in jobs:
            if wrong := _untrainable(job):
                yield Trained(job, None, error=wrong)
            else:
                todo.append(job)
        if not todo:
            return
        with self.packed():
            planned = self.planned(todo)
            fitting = []
            for job in todo:
                if planned.cost(*_largest(job, planned.per_token, planned.per_label)) <= planned.activations:
                    fitting.append(job)
                else:
                    yield Trained(job, None, error=f"its longest text does not fit: {planned.words()}")
            before = self._allocated(reset=True)
            yield from self._session(fitting, planned, resume).run(after_pass)
            if before is not None and (used := (self._allocated() or 0) - before) > planned.peak:
                LOG.warning("training took %d MiB more than planned: %s", (used - planned.peak) >> 20, planned.words())

    def _allocated(self, *, reset: bool = False) -> int | None:
        """The most bytes that torch has held on a CUDA device, since the last reset; None elsewhere."""
        if self.device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return int(torch.cuda.max_memory_allocated(self.device))

    def _session(self, jobs: Sequence[Job], planned: Plan, resume: bytes | None) -> Session:
        if resume is None:
            return Session(self, jobs, planned)
        saved = checkpoint.read(resume)
        session = Session(self, jobs, saved.plan(planned))
        saved.into(session)
        return session

    def planned(self, jobs: Sequence[Job]) -> Plan:
        """What training `jobs` will take. Raises CannotRun, with the arithmetic, when not one of them fits."""
        rank = max(job.rank for job in jobs)
        numbers = sum(aligned(rank) * sum(widths) for widths in self.wired.layers.values())
        per_token, per_label = self._cost_of(rank), LOGITS * self._vocabulary()
        return plan(
            [_largest(job, per_token, per_label) for job in jobs],
            slots=min(self.slots, len(jobs)),
            tokens=self.tokens,
            numbers=numbers,
            per_token=per_token,
            per_label=per_label,
            free=self._free(),
        )

    def logits_of(self, pack: Pack, route: Route) -> torch.Tensor:
        """The logits [labelled rows, vocabulary] of a pack."""
        with self.wired.routed(route), laid_out(pack.layout):
            answer = self.model(
                input_ids=pack.ids, position_ids=pack.positions, use_cache=False, logits_to_keep=pack.rows
            )
        logits: torch.Tensor = answer.logits[0]
        return logits

    def close(self) -> None:
        """Put the model back as it was."""
        self.wired.close()

    @contextmanager
    def packed(self) -> Iterator[None]:
        """The model attends inside packs within this context."""
        before = self.model.config._attn_implementation  # noqa: SLF001  (there is no other way to ask)
        self.model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            self.model.set_attn_implementation(before)

    def pack(self, entries: Sequence[Entry], slots: int) -> Pack:
        """The pack of `entries` for this device."""
        return pack(entries, slots, self.device, one_call=self._one_call)

    def _vocabulary(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def _cost_of(self, rank: int) -> int:
        """Bytes that a token keeps for the backward pass: measured once for each rank."""
        if rank not in self._costs:
            with self.packed():
                small, large = (self._saved(rank, tokens) for tokens in (PROBE, 3 * PROBE))
            self._costs[rank] = max(1, (large - small) // (2 * PROBE))
        return self._costs[rank]

    def _saved(self, rank: int, tokens: int) -> int:
        bank = Bank(self.wired.layers, 1, rank, self.model, training=True)
        text = Tokens((0,) * tokens, (False,) * (tokens - 1) + (True,))
        one = self.pack([Entry(0, text, 1.0)], 1)
        return saved_bytes(lambda: self.logits_of(one, Route(bank, one.lengths, self.dtype)))


class Session:
    """One list of jobs on its way through the slots."""

    def __init__(self, trainer: Trainer, jobs: Sequence[Job], plan: Plan) -> None:
        self.trainer, self.plan = trainer, plan
        self.rank = max(job.rank for job in jobs)
        self.queue = longest_first(jobs)
        self.next = 0  # of the queue
        self.bank = Bank(trainer.wired.layers, plan.slots, self.rank, trainer.model, training=True)
        self.optimizer = SlotAdamW(self.bank, scaled=trainer.dtype == torch.float16)
        self.slots: list[Progress | None] = [None] * plan.slots
        self.shapes: dict[int, adapters.Weights] = {}  # slot -> what is taken out of it at the end
        self.turn = 0  # the slot that is served first

    def run(self, after_pass: Callable[[Callable[[], bytes]], None]) -> Iterator[Trained]:
        """Pass after pass until the queue and all slots are empty."""
        self._fill()
        while any(self.slots):
            stepped = self._pass()
            done = [self._finished(slot) for slot in stepped if self._held(slot).over]
            self._fill()
            yield from done
            after_pass(lambda: checkpoint.state(self))

    def begin(self, slot: int, progress: Progress) -> None:
        """Give a slot to a job: fresh values behind those of `start`, which are frozen."""
        job, layers = progress.job, self.trainer.wired.layers
        how = job.tuning
        weights = adapters.fresh(layers, how.targets, how.rank, how.alpha, how.seed)
        frozen = None
        if job.start:
            weights = weights.on_top(job.start)
            frozen = _first_ranks(self.bank, job.start.rank)
        adapters.load(self.bank, slot, weights)
        self.optimizer.begin(slot, how, frozen)
        self.slots[slot], self.shapes[slot] = progress, weights

    def _fill(self) -> None:
        for slot, held in enumerate(self.slots):
            if held is None and self.next < len(self.queue):
                progress = Progress(self.queue[self.next])
                self.next += 1
                progress.begin()
                self.begin(slot, progress)

    def _pass(self) -> list[int]:
        """One forward and backward pass; gives the slots whose step it completed, and steps them."""
        entries = self._chosen()
        one = self.trainer.pack(entries, self.plan.slots)
        self.trainer.passes += 1
        self.trainer.computed += sum(one.lengths)
        self.trainer.logits += len(one.rows)
        try:
            losses = self._backward(one)
        except torch.OutOfMemoryError as error:
            raise Temporary(
                f"the device's memory did not hold a pass of {sum(one.lengths):,} tokens: {self.plan.words()}",
                hint="run it again with less: --backend-option train_tokens=N or --backend-option slots=N",
            ) from error
        stepped = []
        for slot in sorted({entry.slot for entry in entries}):
            progress = self._held(slot)
            progress.loss = losses[slot] if progress.loss is None else progress.loss + losses[slot]
            if not progress.left:
                progress.stepped(self.optimizer.step(slot, progress.job.learning_rate(progress.step)))
                self.trainer.steps += 1
                stepped.append(slot)
        return stepped

    def _backward(self, one: Pack) -> torch.Tensor:
        """Gradients of every slot into the bank; gives the slots' losses [slots], unscaled, not waited for."""
        route = Route(self.bank, one.lengths, self.trainer.dtype)
        logits = self.trainer.logits_of(one, route)
        each = F.cross_entropy(logits.to(self.bank.values.dtype), one.targets, reduction="none") * one.weight
        (each * self.optimizer.scale[one.slot]).sum().backward()
        return each.new_zeros(self.plan.slots).index_add_(0, one.slot, each.detach())

    def _chosen(self) -> list[Entry]:
        """The texts of the next pass: slots in turn, each as many of its step's as fit; the first one always."""
        entries: list[Entry] = []
        used = tokens = 0
        count = len(self.slots)
        for slot in [(self.turn + ahead) % count for ahead in range(count)]:
            progress = self.slots[slot]
            while progress and progress.left:
                text = progress.job.texts[progress.left[0]]
                cost = self.plan.cost(len(text.ids), text.labelled)
                size = len(text.ids)
                if entries and (used + cost > self.plan.activations or tokens + size > self.plan.tokens):
                    self.turn = slot  # it goes first the next time
                    return entries
                used, tokens = used + cost, tokens + size
                entries.append(Entry(slot, text, 1.0 / max(1, progress.labels)))
                del progress.left[0]
        return entries

    def _finished(self, slot: int) -> Trained:
        progress = self._held(slot)
        self.slots[slot] = None
        progress.settle()
        weights = adapters.taken(self.bank, slot, self.shapes.pop(slot))
        return Trained(progress.job, weights, tuple(progress.losses), progress.skipped)

    def _held(self, slot: int) -> Progress:
        progress = self.slots[slot]
        if progress is None:
            raise RuntimeError(f"slot {slot} is empty")
        return progress


def _largest(job: Job, per_token: int, per_label: int) -> tuple[int, int]:
    """Tokens and labels of the text that needs the most memory."""
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


def _first_ranks(bank: Bank, count: int) -> torch.Tensor:
    """Which of a slot's numbers belong to the first `count` ranks [N]."""
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

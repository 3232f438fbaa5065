"""The training of a group of adapters, as far as it outlives the process: what is kept in the run, and found there."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hybrid.backends.tuned.signals import heard
from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import BadData
from hybrid.protocols import Tensors
from hybrid.records import Failure
from hybrid.training import adapters, checkpoint
from hybrid.training.adapters import LoraWeights
from hybrid.training.jobs import Job, Trained
from hybrid.training.trainer import Trainer
from hybrid.tuning import Tuning

LOG = logging.getLogger("hybrid")
PROGRESS = logging.getLogger("hybrid.training")
TELL = 30.0
"""Seconds between two lines about how far the training is."""

SHOWN = 16
"""Most losses that a record tells of."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A training that requests ask for: how, and on top of which adapter of the run ("" for none)."""

    tuning: Tuning
    start: str = ""

    @property
    def name(self) -> str:
        """64 hex digits: the digest of the tuning, with that of the adapter below it."""
        return digest([self.tuning.digest, self.start]) if self.start else self.tuning.digest


@dataclass(frozen=True, slots=True)
class Made:
    """A trained adapter: its file and digest, and what its training did; or why there is none."""

    weights: LoraWeights | None = None
    data: bytes = b""
    digest: str = ""
    told: Mapping[str, Json] = field(default_factory=dict)
    failure: Failure | None = None


class Group:
    """Some trainings that share their passes. `model` is the digest of the base, `dtype` that of the adapters' files.

    Every `interval` seconds the state of the training and the adapters that are done are kept in the run. Going on from
    there gives the same adapters, to the bit on the same kind of machine.
    """

    def __init__(
        self,
        tensors: Tensors,
        wanted: Sequence[Wanted],
        *,
        model: str,
        dtype: torch.dtype,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tensors, self._wanted, self._dtype = tensors, wanted, dtype
        self._interval, self._clock = interval, clock
        self._base = [model, str(dtype)]
        self._kept_at = self._told_at = clock()
        self._number = 0  # of the last state that was kept
        self._made: dict[str, Made] = {}
        self._unkept: set[str] = set()

    @property
    def state_name(self) -> str:
        """What the state is kept under: it is of exactly these trainings."""
        return digest(["state", *self._base, *[one.name for one in self._wanted]])

    def found(self) -> dict[str, Made]:
        """The adapters of the group that the run keeps, by name."""
        for one in self._wanted:
            if one.name not in self._made and (kept := self._tensors.newest(self._kept_name(one.name))):
                try:
                    self._made[one.name] = self._opened(kept[1])
                except BadData as error:
                    LOG.warning("%s; it is trained again", error.message)
        return dict(self._made)

    def train(self, trainer: Trainer, jobs: Sequence[Job], left_out: Mapping[str, int]) -> dict[str, Made]:
        """Train what the run does not keep yet; jobs are named as the trainings are. Raises CannotRun, Temporary."""
        resume = self._state(jobs)
        LOG.info("training %d adapters%s", len(self._wanted), ", going on from a kept state" if resume else "")
        try:
            self._run(trainer, jobs, left_out, resume)
        except BadData as error:
            if resume is None:
                raise
            LOG.warning("%s; the group is trained anew", error.message)
            self._made = {}
            self._run(trainer, jobs, left_out, None)
        for one in self._wanted:
            made = self._made[one.name]
            if one.tuning.keep and made.weights is not None:
                self._tensors.keep(made.digest, 0, made.data)
        return dict(self._made)

    def _run(self, trainer: Trainer, jobs: Sequence[Job], left_out: Mapping[str, int], resume: bytes | None) -> None:
        self._kept_at = self._told_at = self._clock()
        with heard() as asked:
            self._train(trainer, jobs, left_out, resume, asked)
        if self._due():
            self._keep_finished()

    def _train(
        self,
        trainer: Trainer,
        jobs: Sequence[Job],
        left_out: Mapping[str, int],
        resume: bytes | None,
        asked: Callable[[], bool],
    ) -> None:
        """Raises KeyboardInterrupt when a signal has asked for the end; then the state is kept."""
        steps = sum(job.steps for job in jobs)

        def after_pass(state: Callable[[], bytes]) -> None:
            self._tell(trainer.steps, steps)
            if self._due() or asked():
                self._keep(state)
            if asked():
                raise KeyboardInterrupt

        for done in trainer.train(jobs, resume=resume, after_pass=after_pass):
            made = self._made[done.job.name] = self._finished(done, left_out.get(done.job.name, 0))
            self._unkept.add(done.job.name)
            what = made.failure.message if made.failure else f"{done.job.steps} steps, loss {made.told['loss']}"
            LOG.info("adapter %d of %d trained: %s", len(self._made), len(self._wanted), what)

    def _tell(self, done: int, steps: int) -> None:
        if self._clock() - self._told_at >= TELL:
            self._told_at = self._clock()
            PROGRESS.info(
                "training: %d of %d adapters, %d of %d steps", len(self._made), len(self._wanted), done, steps
            )

    def _finished(self, done: Trained, left_out: int) -> Made:
        if done.adapter is None:
            return Made(failure=Failure("training", done.error))
        if not all(part.isfinite().all() for pair in done.adapter.layers.values() for part in pair):
            return Made(failure=Failure("training", "the adapter has numbers that are not finite"))
        weights = done.adapter.to(self._dtype)  # what answers is what the file holds
        data = weights.to_bytes(self._dtype)
        name = adapters.named(data)
        told: dict[str, Json] = {
            "adapter": name,
            "tuning": done.job.tuning.digest,
            "texts": len(done.job.texts),
            "left_out": left_out,
            "steps": done.job.steps,
            "skipped": done.skipped,
            "tokens": done.job.tokens,
            "loss": shown(done.losses),
        }
        return Made(weights, data, name, told)

    def _state(self, jobs: Sequence[Job]) -> bytes | None:
        """The kept state, if all that it takes for done is here."""
        kept = self._tensors.newest(self.state_name)
        self._number = kept[0] if kept else 0
        done = None
        if kept:
            try:
                done = _done(checkpoint.read(kept[1]), {job.name for job in jobs})
            except BadData as error:
                LOG.warning("%s; the group is trained anew", error.message)
        if kept is None or done is None or not done <= set(self._made):
            self._made = {}
            return None
        self._made = {name: self._made[name] for name in sorted(done)}
        return kept[1]

    def _keep(self, state: Callable[[], bytes]) -> None:
        self._keep_finished()
        self._number += 1
        self._tensors.keep(self.state_name, self._number, state())
        self._kept_at = self._clock()

    def _due(self) -> bool:
        return self._clock() - self._kept_at >= self._interval

    def _keep_finished(self) -> None:
        for name in sorted(self._unkept):
            made = self._made[name]
            if made.weights is not None:
                self._tensors.keep(self._kept_name(name), 0, encode(made.told) + b"\n" + made.data)
        self._unkept.clear()

    def _kept_name(self, name: str) -> str:
        """What a finished adapter is kept under: its training, over this base."""
        return digest(["adapter", *self._base, name])

    def _opened(self, kept: bytes) -> Made:
        """An adapter as `_keep_finished` kept it. Raises BadData."""
        line, _, data = kept.partition(b"\n")
        told, name = decode(line, what="a kept adapter"), adapters.named(data)
        if not isinstance(told, dict) or told.get("adapter") != name:
            raise BadData("a kept adapter is not the one that it says")
        return Made(adapters.from_bytes(data, name[:12]), data, name, told)


def _done(saved: checkpoint.Checkpoint, jobs: set[str]) -> set[str]:
    """The jobs that a state takes for finished. Those that could not be trained are in no state. Raises BadData."""
    trained = list(saved.metadata["jobs"])
    if not set(trained) <= jobs:
        raise BadData("the training that is to go on is of other jobs")
    return saved.done(trained)


def shown(losses: Sequence[float]) -> list[Json]:
    """The course of the losses in at most `SHOWN` numbers: means over as many stretches, to four digits."""
    stretches = min(SHOWN, len(losses))
    ends = [len(losses) * part // stretches for part in range(stretches + 1)] if stretches else [0]
    means = [sum(losses[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    return [round(mean, 4) if math.isfinite(mean) else None for mean in means]

"""The training of a group of adapters; checkpoints and finished adapters are kept in the run."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hybrid.canonical import Json, decode, digest, encode
from hybrid.errors import BadData
from hybrid.machine.signals import Noted, deferred_signals
from hybrid.protocols import Tensors
from hybrid.records import Failure
from hybrid.training import adapters, checkpoint
from hybrid.training.adapters import LoraWeights
from hybrid.training.jobs import Job, Trained
from hybrid.training.trainer import Trainer
from hybrid.tuning import Tuning

LOG = logging.getLogger("hybrid")
PROGRESS = logging.getLogger("hybrid.training")
LOG_SECONDS = 30.0
"""Seconds between two log lines about progress."""

LOSS_POINTS = 16
"""Most points of the loss curve in a record."""


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A training that requests need: the tuning, and the digest of the adapter it starts from ("" for none)."""

    tuning: Tuning
    start: str = ""

    @property
    def name(self) -> str:
        """64 hex digits: the digest of the tuning, with that of the adapter it starts from."""
        return digest([self.tuning.digest, self.start]) if self.start else self.tuning.digest


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """A trained adapter: its weights, file and digest, and the metrics of its training; or why there is none."""

    weights: LoraWeights | None = None
    data: bytes = b""
    digest: str = ""
    metrics: Mapping[str, Json] = field(default_factory=dict)
    failure: Failure | None = None


class Group:
    """Trainings that share their passes. `model` is the digest of the base model, `dtype` the type of adapter files.

    Every `interval` seconds a checkpoint and the finished adapters are written into the run. Resuming from it gives
    bit-identical adapters on the same kind of machine.
    """

    def __init__(
        self,
        tensors: Tensors,
        wanted: Sequence[TrainingRequest],
        *,
        model: str,
        dtype: torch.dtype,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tensors, self._wanted, self._dtype = tensors, wanted, dtype
        self._interval, self._clock = interval, clock
        self._base = [model, str(dtype)]
        self._kept_at = self._logged_at = clock()
        self._number = 0  # of the last checkpoint
        self._made: dict[str, TrainedAdapter] = {}
        self._unkept: set[str] = set()

    @property
    def state_name(self) -> str:
        """The name of the checkpoint: a digest of exactly these trainings."""
        return digest(["state", *self._base, *[one.name for one in self._wanted]])

    def found(self) -> dict[str, TrainedAdapter]:
        """The adapters of the group that are in the run, by name."""
        for one in self._wanted:
            if one.name not in self._made and (kept := self._tensors.newest(self._kept_name(one.name))):
                try:
                    self._made[one.name] = self._opened(kept[1])
                except BadData as error:
                    LOG.warning("%s; it is trained again", error.message)
        return dict(self._made)

    def train(self, trainer: Trainer, jobs: Sequence[Job], left_out: Mapping[str, int]) -> dict[str, TrainedAdapter]:
        """Train what the run does not hold yet. A job has the name of its training. Raises CannotRun, Temporary."""
        resume = self._state(jobs)
        LOG.info("training %d adapters%s", len(self._wanted), ", resumed from a checkpoint" if resume else "")
        try:
            self._run(trainer, jobs, left_out, resume)
        except BadData as error:
            if resume is None:
                raise
            LOG.warning("%s; the group is trained anew", error.message)
            self._made, self._unkept = {}, set()
            self._run(trainer, jobs, left_out, None)
        for one in self._wanted:
            made = self._made[one.name]
            if one.tuning.keep and made.weights is not None:
                self._tensors.keep(made.digest, 0, made.data)
        return dict(self._made)

    def _run(self, trainer: Trainer, jobs: Sequence[Job], left_out: Mapping[str, int], resume: bytes | None) -> None:
        self._kept_at = self._logged_at = self._clock()
        with deferred_signals() as asked:
            self._train(trainer, jobs, left_out, resume, asked)
            if self._due() or asked():
                self._keep_finished()

    def _train(
        self,
        trainer: Trainer,
        jobs: Sequence[Job],
        left_out: Mapping[str, int],
        resume: bytes | None,
        asked: Noted,
    ) -> None:
        """Raises KeyboardInterrupt when a signal has asked for the end; a checkpoint is written first."""
        steps = sum(job.steps for job in jobs)

        def after_pass(state: Callable[[], bytes]) -> None:
            self._log_progress(trainer.steps, steps)
            if self._due() or asked():
                self._keep(state)
            if asked():
                asked.obey()

        for done in trainer.train(jobs, resume=resume, after_pass=after_pass):
            made = self._made[done.job.name] = self._finished(done, left_out.get(done.job.name, 0))
            self._unkept.add(done.job.name)
            what = made.failure.message if made.failure else f"{done.job.steps} steps, loss {made.metrics['loss']}"
            LOG.info("adapter %d of %d trained: %s", len(self._made), len(self._wanted), what)

    def _log_progress(self, done: int, steps: int) -> None:
        if self._clock() - self._logged_at >= LOG_SECONDS:
            self._logged_at = self._clock()
            PROGRESS.info(
                "training: %d of %d adapters, %d of %d steps", len(self._made), len(self._wanted), done, steps
            )

    def _finished(self, done: Trained, left_out: int) -> TrainedAdapter:
        if done.adapter is None:
            return TrainedAdapter(failure=Failure("training", done.error))
        if not all(part.isfinite().all() for pair in done.adapter.layers.values() for part in pair):
            return TrainedAdapter(failure=Failure("training", "the adapter has numbers that are not finite"))
        weights = done.adapter.to(self._dtype)  # generate with exactly the weights of the file
        data = weights.to_bytes(self._dtype)
        name = adapters.adapter_digest(data)
        metrics: dict[str, Json] = {
            "adapter": name,
            "tuning": done.job.tuning.digest,
            "texts": len(done.job.texts),
            "left_out": left_out,
            "steps": done.job.steps,
            "skipped": done.skipped,
            "tokens": done.job.tokens,
            "loss": loss_curve(done.losses),
        }
        return TrainedAdapter(weights, data, name, metrics)

    def _state(self, jobs: Sequence[Job]) -> bytes | None:
        """The checkpoint, if all adapters that it records as finished are here."""
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
                self._tensors.keep(self._kept_name(name), 0, encode(made.metrics) + b"\n" + made.data)
        self._unkept.clear()

    def _kept_name(self, name: str) -> str:
        """The name of a finished adapter in the run: a digest of training and base model."""
        return digest(["adapter", *self._base, name])

    def _opened(self, kept: bytes) -> TrainedAdapter:
        """An adapter as `_keep_finished` kept it. Raises BadData."""
        line, _, data = kept.partition(b"\n")
        metrics, name = decode(line, what="a kept adapter"), adapters.adapter_digest(data)
        if not isinstance(metrics, dict) or metrics.get("adapter") != name:
            raise BadData("a kept adapter does not match its digest")
        return TrainedAdapter(adapters.from_bytes(data, name[:12]), data, name, metrics)


def _done(saved: checkpoint.Checkpoint, jobs: set[str]) -> set[str]:
    """The jobs that a checkpoint records as finished. Raises BadData when it has jobs of other trainings."""
    trained = list(saved.metadata["jobs"])
    if not set(trained) <= jobs:
        raise BadData("the checkpoint holds other trainings")
    return saved.done(trained)


def loss_curve(losses: Sequence[float]) -> list[Json]:
    """The losses as at most `LOSS_POINTS` means over equal intervals of steps, rounded to four decimals."""
    parts = min(LOSS_POINTS, len(losses))
    ends = [len(losses) * part // parts for part in range(parts + 1)] if parts else [0]
    means = [sum(losses[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    return [round(mean, 4) if math.isfinite(mean) else None for mean in means]

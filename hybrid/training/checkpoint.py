"""Checkpoints: the state of training between two passes as one safetensors file. Nothing in it is unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.training.jobs import Job
from hybrid.training.memory import MemoryPlan
from hybrid.training.progress import JobProgress
from hybrid.training.trainable import TrainableBank

VERSION = 2
"""2: the A matrices of layers with the same input are adjacent in a slot's values."""
PARTS = ("values", "scale")
PLAN_FIELDS = ("slots", "tokens", "activations", "per_token", "per_label")
LATER_PLAN_FIELDS: Mapping[str, Json] = {"per_square": 0.0, "checkpointed": False, "passing": 0}
"""Fields of the plan that an earlier version did not write, and their values then."""
OPTIONAL_PARTS = ("exp_avg", "exp_avg_sq", "step", "grad")
"""Tensors that may be missing: moments exist after the first step, gradients within a step."""


class TrainingSession(Protocol):
    """The training whose state a checkpoint holds: jobs in a queue, and those in the slots of a bank."""

    plan: MemoryPlan
    rank: int
    queue: list[Job]
    next: int  # index in the queue of the next job
    bank: TrainableBank
    slots: list[JobProgress | None]
    first_slot: int  # the slot whose texts are chosen first

    def begin(self, slot: int, progress: JobProgress) -> None:
        """Start a job in a slot."""
        ...


def state(session: TrainingSession) -> bytes:
    """The checkpoint: values, moments, gradients and progress of the occupied slots, and the position in the queue."""
    tensors: dict[str, torch.Tensor] = {}
    for slot, progress in enumerate(session.slots):
        if progress:
            parts = session.bank.state(slot)
            if progress.loss is None:  # zero between two steps
                del parts["grad"]
            tensors |= {f"{slot}/{name}": value for name, value in parts.items()}
    metadata = {
        "version": VERSION,
        "jobs": [job.name for job in session.queue],
        "shape": [session.rank, session.bank.size],
        "plan": {name: getattr(session.plan, name) for name in (*PLAN_FIELDS, *LATER_PLAN_FIELDS)},
        "next": session.next,
        "turn": session.first_slot,
        "slots": [progress.to_json() if progress else None for progress in session.slots],
    }
    data: bytes = safetensors.torch.save(tensors, {"session": json.dumps(metadata)})
    return data


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def plan(self, here: MemoryPlan) -> MemoryPlan:
        """The memory plan of the checkpoint, so that resuming computes the same.

        Raises BadData when it does not fit here.
        """
        plan = self.metadata["plan"]
        later = {name: plan.get(name, absent) for name, absent in LATER_PLAN_FIELDS.items()}
        found = replace(here, **{name: plan[name] for name in PLAN_FIELDS}, **later)
        if found.peak > here.free:
            raise BadData("the training that is to go on was planned for a device with more free memory")
        return found

    def done(self, jobs: Sequence[str]) -> set[str]:
        """The names of the finished jobs. Raises BadData when the checkpoint is of other jobs."""
        if set(self.metadata["jobs"]) != set(jobs):
            raise BadData("the checkpoint holds other trainings")
        held = {stored["job"] for stored in self.metadata["slots"] if stored}
        return set(self.metadata["jobs"][: self.metadata["next"]]) - held

    def restore(self, session: TrainingSession) -> None:
        """Set a new session to the state of the checkpoint. Raises BadData when it is of other jobs."""
        metadata = self.metadata
        jobs = {job.name: job for job in session.queue}
        shape = [session.rank, session.bank.size]
        if sorted(metadata["jobs"]) != sorted(jobs) or metadata["shape"] != shape:
            raise BadData("the checkpoint holds other trainings")
        session.queue = [jobs[name] for name in metadata["jobs"]]  # jobs that were put back are not where they began
        session.next, session.first_slot = metadata["next"], metadata["turn"]
        for slot, stored in enumerate(metadata["slots"]):
            if stored is not None:
                session.begin(slot, _progress(session, stored))
                parts = {name: self._part(session, slot, name) for name in (*PARTS, *OPTIONAL_PARTS)}
                session.bank.restore(slot, {name: part for name, part in parts.items() if part is not None})

    def _part(self, session: TrainingSession, slot: int, name: str) -> Any:
        part = self.tensors.get(f"{slot}/{name}")
        if part is None and name in OPTIONAL_PARTS:
            return None
        shape = () if name in ("scale", "step") else (session.bank.size,)
        if part is None or part.shape != shape or not part.is_floating_point():
            raise BadData(f"the training that is to go on lacks {name} of slot {slot}")
        return part


def read(data: bytes) -> Checkpoint:
    """Read an untrusted checkpoint. Raises BadData."""
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["session"])
        slots, count = metadata["plan"]["slots"], len(metadata["jobs"])
        if not isinstance(metadata["shape"], list):
            raise ValueError("its slots have no size")
        if metadata["version"] != VERSION:
            raise ValueError(f"version {metadata['version']!r:.20}")
        if not _valid_plan(metadata["plan"]) or slots != len(metadata["slots"]):
            raise ValueError("its memory plan is invalid")
        if not all(isinstance(one, str) for one in metadata["jobs"]):
            raise ValueError("its jobs have no names")
        if not all(stored is None or isinstance(stored["job"], str) for stored in metadata["slots"]):
            raise ValueError("its slots have no jobs")
        if not (0 <= _integer(metadata["next"]) <= count and 0 <= _integer(metadata["turn"]) < slots <= count):
            raise ValueError("its positions are out of range")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"not a state of training: {type(error).__name__}: {error!s:.200}") from error
    return Checkpoint(metadata, tensors)


def _valid_plan(plan: Mapping[str, Any]) -> bool:
    square, again, passing = (plan.get(name, absent) for name, absent in LATER_PLAN_FIELDS.items())
    return (
        all(_integer(plan[name]) > 0 for name in PLAN_FIELDS)
        and (type(square) is float and 0 <= square < math.inf)
        and type(again) is bool
        and 0 <= _integer(passing) <= plan["per_token"]
    )


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


def _progress(session: TrainingSession, stored: Any) -> JobProgress:
    """A job's progress, checked against the job itself."""
    try:
        job = next(job for job in session.queue if job.name == stored["job"])
        progress = JobProgress(job, _integer(stored["step"]), skipped=_integer(stored["skipped"]))
        if not 0 <= progress.step < job.steps or len(stored["losses"]) != progress.step:
            raise ValueError("its step is out of range")
        progress.losses = [float(loss) for loss in stored["losses"]]
        progress.begin()
        remaining = [_integer(one) for one in stored["left"]]
        if remaining != progress.remaining[len(progress.remaining) - len(remaining) :]:
            raise ValueError("its texts are not those of the step")
        progress.remaining = remaining
        if stored["loss"] is not None:
            progress.loss = torch.tensor(float(stored["loss"]), device=session.bank.values.device)
    except (KeyError, TypeError, ValueError, OverflowError, StopIteration) as error:
        raise BadData(f"the training that is to go on is damaged: {type(error).__name__}: {error}") from error
    return progress

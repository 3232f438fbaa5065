"""The state of a session between two passes as one safetensors file, and back. Nothing in it is run or unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch

from hybrid.errors import BadData
from hybrid.training.jobs import Job
from hybrid.training.memory import Plan
from hybrid.training.optimizer import SlotAdamW
from hybrid.training.progress import Progress
from hybrid.training.slots import Bank

VERSION = 2
"""2: the A of layers with one input stand side by side in a slot's values."""
PARTS = ("values", "scale")
PLANNED = ("slots", "tokens", "activations", "per_token", "per_label")
MAYBE = ("exp_avg", "exp_avg_sq", "step", "grad")
"""Moments are there after the first step, gradients in the middle of one."""


class Session(Protocol):
    """What a checkpoint is of: a list of jobs on its way through the slots of a bank."""

    plan: Plan
    rank: int
    queue: list[Job]
    next: int  # of the queue
    bank: Bank
    optimizer: SlotAdamW
    slots: list[Progress | None]
    turn: int  # the slot that is served first

    def begin(self, slot: int, progress: Progress) -> None:
        """Give a slot to a job."""
        ...


def state(session: Session) -> bytes:
    """Values, moments and gradients of the slots that train, where each stands, and where the queue does."""
    tensors: dict[str, torch.Tensor] = {}
    for slot, progress in enumerate(session.slots):
        if progress:
            parts = {"values": session.bank.values[slot], **session.optimizer.state(slot)}
            if progress.loss is None:  # between two steps it is zero
                del parts["grad"]
            tensors |= {f"{slot}/{name}": value.detach().to("cpu", copy=True) for name, value in parts.items()}
    about = {
        "version": VERSION,
        "jobs": [job.name for job in session.queue],
        "shape": [session.rank, session.bank.size],
        "plan": {name: getattr(session.plan, name) for name in PLANNED},
        "next": session.next,
        "turn": session.turn,
        "slots": [progress.to_json() if progress else None for progress in session.slots],
    }
    data: bytes = safetensors.torch.save(tensors, {"session": json.dumps(about)})
    return data


@dataclass(frozen=True, slots=True)
class Saved:
    """A state that was read."""

    about: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def plan(self, here: Plan) -> Plan:
        """The plan that the state was made by: going on computes the same. Raises BadData when it does not fit here."""
        found = replace(here, **{name: self.about["plan"][name] for name in PLANNED})
        if found.peak > here.free:
            raise BadData("the training that is to go on was planned for a device with more free memory")
        return found

    def done(self, jobs: Sequence[str]) -> set[str]:
        """The names of the jobs that were finished. Raises BadData when it is of other jobs."""
        if set(self.about["jobs"]) != set(jobs):
            raise BadData("the training that is to go on is of other jobs")
        held = {told["job"] for told in self.about["slots"] if told}
        return set(self.about["jobs"][: self.about["next"]]) - held

    def into(self, session: Session) -> None:
        """Bring a fresh session to where the state was taken. Raises BadData when it is of other jobs."""
        about = self.about
        if about["jobs"] != [job.name for job in session.queue] or about["shape"] != [session.rank, session.bank.size]:
            raise BadData("the training that is to go on is of other jobs")
        session.next, session.turn = about["next"], about["turn"]
        for slot, told in enumerate(about["slots"]):
            if told is not None:
                session.begin(slot, _progress(session, told))
                parts = {name: self._part(session, slot, name) for name in (*PARTS, *MAYBE)}
                session.bank.values[slot].copy_(parts.pop("values"))
                session.optimizer.restore(slot, {name: part for name, part in parts.items() if part is not None})

    def _part(self, session: Session, slot: int, name: str) -> Any:
        part = self.tensors.get(f"{slot}/{name}")
        if part is None and name in MAYBE:
            return None
        shape = () if name in ("scale", "step") else (session.bank.size,)
        if part is None or part.shape != shape or not part.is_floating_point():
            raise BadData(f"the training that is to go on lacks {name} of slot {slot}")
        return part


def read(data: bytes) -> Saved:
    """A state that anybody may have written. Raises BadData."""
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["session"])
        slots, count = about["plan"]["slots"], len(about["jobs"])
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']!r:.20}")
        if not all(_whole(about["plan"][name]) > 0 for name in PLANNED) or slots != len(about["slots"]):
            raise ValueError("its plan is none")
        if not all(isinstance(one, str) for one in about["jobs"]):
            raise ValueError("its jobs have no names")
        if not all(told is None or isinstance(told["job"], str) for told in about["slots"]):
            raise ValueError("its slots have no jobs")
        if not (0 <= _whole(about["next"]) <= count and 0 <= _whole(about["turn"]) < slots <= count):
            raise ValueError("its places are out of range")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"not a state of training: {type(error).__name__}: {error!s:.200}") from error
    return Saved(about, tensors)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


def _progress(session: Session, told: Any) -> Progress:
    """A job's place, checked against the job itself."""
    try:
        job = next(job for job in session.queue if job.name == told["job"])
        progress = Progress(job, _whole(told["step"]), skipped=_whole(told["skipped"]))
        if not 0 <= progress.step < job.steps or len(told["losses"]) != progress.step:
            raise ValueError("its step is out of range")
        progress.losses = [float(loss) for loss in told["losses"]]
        progress.begin()
        left = [_whole(one) for one in told["left"]]
        if left != progress.left[len(progress.left) - len(left) :]:
            raise ValueError("its texts are not those of the step")
        progress.left = left
        if told["loss"] is not None:
            progress.loss = torch.tensor(float(told["loss"]), device=session.bank.values.device)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise BadData(f"the training that is to go on is damaged: {type(error).__name__}: {error}") from error
    return progress

"""Checks of training: planned and used memory, copies to the device, what happens without memory, and speed."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from peers.random_models import LLAMA_1B, TINY, job_of, random_llama, random_text
from torch.profiler import ProfilerActivity, profile

from gpu.checks import MIB, Check, Machine, Outcome
from gpu.kernels import seconds
from hybrid.backends.devices import free_memory
from hybrid.machine.gpu_memory import NAMES, SEGMENTS
from hybrid.training.adapters import initial_weights
from hybrid.training.jobs import Job
from hybrid.training.measure import Storages
from hybrid.training.memory import HALF_SPEED, RECOMPUTATION, MemoryPlan
from hybrid.training.packing import Pack, PackedText
from hybrid.training.trainable import TrainableBank
from hybrid.training.trainer import Trainer
from hybrid.tuning import SEAL_TARGETS

TEXT = 719
"""Tokens of a text: the mean of SEAL's training tasks."""
CAME_TO_AN_END = "ran out of memory; from now on"
PINNED, PAGEABLE = "Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pageable -> Device)"
BACK = ("Memcpy DtoH (Device -> Pageable)", "Memcpy DtoH (Device -> Pinned)")
WAITS = ("cudaStreamSynchronize", *BACK)


class Bed:
    """A random model of Llama-3.2-1B's shape on the machine, its trainer and its jobs."""

    def __init__(self, machine: Machine, adapters: int = 32, steps: int = 2) -> None:
        self.machine = machine
        self.shape, self.rank, self.text = (TINY, 8, 23) if machine.forced else (LLAMA_1B, 128, TEXT)
        self.adapters, self.steps = (4 if machine.forced else adapters), steps
        self.tokens = 256 if machine.forced else 6144 if machine.device.dtype == torch.float16 else 16384
        self.model = random_llama(self.shape, machine.device.dtype, machine.device.kind)

    def trainer(self, free: Callable[[], int] | None = None) -> Trainer:
        free = free or partial(free_memory, self.machine.device.kind)
        return Trainer(self.model, SEAL_TARGETS, slots=self.adapters, tokens=self.tokens, free=free)

    def jobs(self) -> list[Job]:
        """Each with steps of two texts."""
        make = partial(random_text, length=self.text, labelled=self.text // 9, vocabulary=self.shape["vocab_size"])
        names = [f"job{number:02}" for number in range(self.adapters)]
        texts = {name: [make(f"{name} {text}") for text in range(2 * self.steps)] for name in names}
        return [job_of(name, own, batch=2, rank=self.rank) for name, own in texts.items()]

    def bank(self, trainer: Trainer, slots: int, *, checkpointed: bool = False) -> TrainableBank:
        """Slots with adapters."""
        bank = TrainableBank(trainer, slots, self.rank, checkpointed=checkpointed)
        how = self.jobs()[0].tuning
        for slot in range(slots):
            first = initial_weights(trainer.slotted.layers, SEAL_TARGETS, self.rank, how.alpha, slot)
            bank.put(slot, first, how)
        return bank


def planned(machine: Machine) -> Outcome:
    """The plan's bytes of the largest pass and of its adapters, beside the allocator's peak."""
    bed = Bed(machine)
    trainer, charged = bed.trainer(), list[int]()
    jobs = bed.jobs()
    plan = trainer.planned(jobs)
    with _noted(trainer, plan, charged):
        used = machine.peak(lambda: _trained(trainer, jobs))
    expected = plan.slots * plan.per_slot + max(charged)
    figures = {
        "adapters": plan.slots,
        "checkpointed": plan.checkpointed,
        "planned_mib": expected // MIB,
        "used_mib": used // MIB,
        "ratio": round(expected / used, 3),
        "reserved_mib": torch.cuda.max_memory_reserved() // MIB if machine.device.kind == "cuda" else None,
        "free_mib": plan.free // MIB,
    }
    trainer.close()
    return Outcome(0.9 <= expected / used <= 2, figures)


@contextmanager
def _noted(trainer: Trainer, plan: MemoryPlan, charged: list[int]) -> Iterator[None]:
    """Note what `plan` charges for each pass."""
    pack = trainer.pack

    def noted(entries: Sequence[PackedText], slots: int) -> Pack:
        charged.append(sum(plan.cost(len(one.text.ids), one.text.labelled) for one in entries))
        return pack(entries, slots)

    with mock.patch.object(trainer, "pack", noted):
        yield


def _trained(trainer: Trainer, jobs: Sequence[Job], **how: Any) -> int:
    """Train the jobs; how many have an adapter of finite numbers."""
    done = [one.adapter for one in trainer.train(jobs, **how)]
    found = [[part for pair in one.layers.values() for part in pair] for one in done if one]
    return sum(all(bool(part.isfinite().all()) for part in parts) for parts in found)


def segments(machine: Machine) -> Outcome:
    """Memory that torch reserves beside what it uses, with segments that grow and without, each in its own process."""
    figures = dict[str, float]()
    for name, setting in (("growing", SEGMENTS), ("fixed", "expandable_segments:False")):
        environment = {key: value for key, value in os.environ.items() if key not in NAMES}
        command = [sys.executable, str(Path(__file__).parents[1] / "gpu_check.py"), "--child", "planned"]
        done = subprocess.run(
            [*command, *(["--forced"] if machine.forced else [])], env={**environment, NAMES[0]: setting}, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])["figures"]
        reserved = found["reserved_mib"] or found["used_mib"]
        figures |= {f"{name}_reserved_mib": reserved, f"{name}_used_mib": found["used_mib"]}
    lost = figures["growing_reserved_mib"] / figures["growing_used_mib"]
    return Outcome(figures["growing_reserved_mib"] <= figures["fixed_reserved_mib"] and lost <= 2.5, figures)


def copies(machine: Machine) -> Outcome:
    """What a pass in the middle of a training copies from the host, and what it waits for."""
    bed = Bed(machine, adapters=4, steps=6)
    trainer, kinds = bed.trainer(), [ProfilerActivity.CPU]
    kinds += [ProfilerActivity.CUDA] if machine.device.kind == "cuda" else []
    names, number = list[str](), itertools.count(1)
    records = profile(activities=kinds)

    def after_pass(_: object) -> None:
        place = next(number)
        if place == 2:
            machine.wait()
            records.start()
        elif place == 3:
            machine.wait()
            records.stop()
            names.extend(one.name for one in records.events())

    whole = _trained(trainer, bed.jobs(), after_pass=after_pass)
    trainer.close()
    figures = {name: sum(one == name for one in names) for name in (PINNED, PAGEABLE, *WAITS)}
    figures |= {"operations": len(names)}
    expected = [int(machine.device.kind == "cuda"), 0, 0, 0, 0]
    passed = [figures[name] for name in (PINNED, PAGEABLE, *WAITS)] == expected and bool(names) and whole == 4
    return Outcome(passed, figures)


def out_of_memory(machine: Machine) -> Outcome:
    """Training with a plan for far more memory than there is, under a limit that torch's allocator keeps."""
    bed = Bed(machine, adapters=4, steps=1)
    jobs, heard = bed.jobs(), Heard()
    trainer = bed.trainer()
    plan = trainer.planned(jobs)
    trainer.close()
    room = plan.slots * plan.per_slot + 3 * plan.cost(bed.text, bed.text // 9)
    trainer, before = bed.trainer(lambda: 1 << 50), allocated()
    trainer.planned(jobs)
    with heard, limited(machine, room):
        whole = _trained(trainer, jobs)
    trainer.close()
    gc.collect()
    left = allocated() - before
    lines = [line for line in heard.lines if CAME_TO_AN_END in line]
    figures = {"room_mib": room // MIB, "smaller_passes": lines, "adapters": whole, "left_mib": left // MIB}
    return Outcome(bool(lines) and whole == len(jobs) and left <= 64 * MIB, figures)


def allocated() -> int:
    """Bytes of the GPU that are held."""
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


class Heard(logging.Handler):
    """Keeps the lines of hybrid's log while it is used as a context."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> Self:
        logger = logging.getLogger("hybrid")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("hybrid")
        logger.setLevel(self._level)
        logger.removeHandler(self)


class Limit(Storages):
    """A device without memory for more than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        found = super().__torch_dispatch__(func, types, args, kwargs)
        if self.bytes > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory: this is a limit of the check")
        return found


@contextmanager
def limited(machine: Machine, room: int) -> Iterator[None]:
    """Memory for `room` bytes beside those that are held: by torch's own limit, on a CPU by one that counts."""
    if machine.device.kind != "cuda":
        with Limit(room):
            yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + room) / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def speed(machine: Machine) -> Outcome:
    """The tokens of a pass with half the speed of a long one, and how much longer one with checkpointing takes."""
    bed = Bed(machine)
    trainer = bed.trainer()
    text = partial(random_text, length=bed.text // 2, labelled=bed.text // 18, vocabulary=bed.shape["vocab_size"])
    tokens_s, factor = dict[int, float](), 0.0
    with trainer.packed():
        for texts in (1, 2, 4, 8, 16, 32):
            pack = trainer.pack([PackedText(slot % 8, text(str(slot)), 1.0) for slot in range(texts)], 8)
            size = texts * (bed.text // 2)
            if size > bed.tokens:
                break
            took = {}
            for checkpointed in (False, True):
                bank = bed.bank(trainer, 8, checkpointed=checkpointed)
                took[checkpointed] = seconds(machine, partial(bank.backward, pack), 3)
                del bank
            tokens_s[size], factor = size / took[False], took[True] / took[False]
    trainer.close()
    half = half_speed(tokens_s)
    figures = {
        "tokens_s": {str(size): round(found) for size, found in tokens_s.items()},
        "half_speed_tokens": round(half),
        "planned_half_speed": HALF_SPEED,
        "checkpointing_factor": round(factor, 2),
        "planned_factor": RECOMPUTATION,
    }
    return Outcome(half <= 2 * HALF_SPEED and 1.0 <= factor <= 1.25 * RECOMPUTATION, figures)


def half_speed(tokens_s: dict[int, float]) -> float:
    """N of the law T(n) = best n / (n + N), from the shortest and the longest pass."""
    (short, slow), (long, fast) = min(tokens_s.items()), max(tokens_s.items())
    return max(0.0, (fast - slow) / (slow / short - fast / long))


CHECKS = {
    "planned": Check(
        planned,
        "planned / used is 0.9 to 2: no line 'MiB more than planned', and not under half of it used",
        "report the figures; until then --backend-option slots=N, train_tokens=N with half of the log's plan",
    ),
    "segments": Check(
        segments,
        "growing segments reserve no more than fixed ones, and at most 2.5 times what is used",
        "set PYTORCH_ALLOC_CONF=expandable_segments:False; report the figures",
        minutes=20,
    ),
    "copies": Check(
        copies,
        "one copy from pinned memory, none from pageable memory, and nothing that waits",
        "report the figures: a new torch may wait where the tests' one does not",
    ),
    "out-of-memory": Check(
        out_of_memory,
        "smaller passes are told, every adapter is trained, and the memory is free again",
        "report the figures; until then --backend-option train_tokens=N",
    ),
    "speed": Check(
        speed,
        f"half speed at no more than {2 * HALF_SPEED} tokens; checkpointing takes at most {1.25 * RECOMPUTATION} times "
        "as long",
        "set HALF_SPEED and RECOMPUTATION in hybrid/training/memory.py to the figures",
    ),
}

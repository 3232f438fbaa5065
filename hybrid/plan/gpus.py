"""The GPUs that a run may be planned for, from a table, and this machine's own device."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hybrid.backends.capacity import BFLOAT16_FROM
from hybrid.backends.memory import available
from hybrid.errors import UsageError, nearest
from hybrid.machine import nvidia, threads

TABLE = "gpus.toml"
CPU = "cpu"
REACHED = (0.35, 0.6)
"""Share of the peak that dense products of matrices reach, from bad to good."""
CORE_TFLOPS, CPU_BANDWIDTH = 0.04, 15.0
"""Operations of a core at 32 bit with its vector units, and bandwidth of a laptop's memory: orders of magnitude."""
CPU_REACHED = (0.3, 1.2)
UNKNOWN_MEMORY = 8 * 2**30
"""Bytes of a machine that does not tell."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device. `memory`: bytes that programs see of it; `flops` and `bandwidth` a second, of which `reached` is what
    programs get, from bad to good. `also`: parts of the names that nvidia-smi gives.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    flops: float
    bandwidth: float
    reached: tuple[float, float] = REACHED
    also: tuple[str, ...] = ()

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU

    @property
    def half(self) -> bool:
        """Whether it computes in float16, since it has no units for bfloat16."""
        return not self.is_cpu and self.capability < BFLOAT16_FROM

    @property
    def too_old(self) -> bool:
        """Whether current torch and vLLM have no code for it."""
        return not self.is_cpu and self.capability < nvidia.MIN_CAPABILITY


def chosen(names: Iterable[str]) -> list[Gpu]:
    """The devices of these names, in their order, each once; `cpu` is this machine's. Raises UsageError."""
    known = {one.name: one for one in every()}
    found: dict[str, Gpu] = {}
    for name in (part.strip().lower() for text in names for part in text.split(",")):
        if name not in (*known, CPU):
            several = [one for one in known if name and one.startswith(name)]
            hint = f"one of {', '.join(several)}" if several else nearest(name[:60], (*known, CPU))
            raise UsageError(f"no GPU '{name[:60]}' is known", hint=hint)
        found[name] = known[name] if name != CPU else this_cpu()
    return list(found.values())


@cache
def every() -> tuple[Gpu, ...]:
    """All GPUs of the table."""
    rows = tomllib.loads((files("hybrid.plan") / TABLE).read_text(encoding="utf-8"))["gpu"]
    return tuple(
        Gpu(
            row["name"],
            int(row["memory_gib"] * GIB),
            (row["capability"][0], row["capability"][1]),
            row["tflops"] * 1e12,
            row["bandwidth"] * 1e9,
            tuple(row.get("reached", REACHED)),
            tuple(row.get("also", ())),
        )
        for row in rows
    )


def this_cpu() -> Gpu:
    """The CPU of this machine, with the memory that is available now."""
    cores = threads.thread_count()
    memory = available() or UNKNOWN_MEMORY
    return Gpu(CPU, memory, (0, 0), cores * CORE_TFLOPS * 1e12, CPU_BANDWIDTH * 1e9, CPU_REACHED)


def named_by(device: str) -> Gpu | None:
    """The GPU of the table that a driver's name of a device means; None for an unknown one."""
    told = device.lower()
    if told == CPU:
        return this_cpu()
    fits = [(len(part), one) for one in every() for part in (*one.also, one.name) if _is_in(part, told)]
    return max(fits, key=lambda one: one[0])[1] if fits else None


def _is_in(part: str, told: str) -> bool:
    """Whether a name has this part as words of its own: an A100 is no A10."""
    return bool(re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", told))

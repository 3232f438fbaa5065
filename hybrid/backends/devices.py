"""The device of this machine that torch computes on, its number format and its free memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybrid.backends.memory import available
from hybrid.errors import CannotRun
from hybrid.machine import threads

CPU_CACHE = 2 * 1024**3
"""Bytes for keys and values on a CPU, whose memory is shared with everything else on the machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device. `memory`: its free bytes; on a CPU, `CPU_CACHE`."""

    kind: str  # cuda, mps, xpu, cpu
    name: str
    dtype: torch.dtype
    memory: int

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def find_device(kind: str = "auto", dtype: str = "auto") -> Device:
    """The device to use: for `auto` the accelerator that torch sees, else the CPU.

    Raises CannotRun without a `kind`.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    here = found.type if found else "cpu"
    if kind not in ("auto", "cpu", here):
        raise CannotRun(f"this machine has no '{kind}' device that torch can use", hint=f"here: {here}, cpu")
    kind = here if kind == "auto" else kind
    limit_threads()
    return Device(kind, _name(kind), _dtype(kind, dtype), _memory(kind))


def limit_threads() -> None:
    """Limit torch's threads to the cores of this process: torch sees the CPU affinity, not a container's CPU quota."""
    torch.set_num_threads(min(torch.get_num_threads(), threads.thread_count()))


def capability() -> tuple[int, int]:
    """The CUDA compute capability of the current GPU, (0, 0) without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)


def free_memory(kind: str) -> int:
    """Free bytes for training: of the GPU, with those that torch has reserved and does not use; else half of the
    available memory, since other programs need some.
    """
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    return max(CPU_CACHE, (available() or 0) // 2)


def _name(kind: str) -> str:
    return torch.cuda.get_device_name() if kind == "cuda" else kind


def _dtype(kind: str, name: str) -> torch.dtype:
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if kind == "cpu":
        return torch.float32
    # A T4 (7.5) has no bfloat16 units and torch emulates it slowly, whatever is_bf16_supported says.
    supported = kind == "cuda" and capability() >= (8, 0) and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if supported or kind == "xpu" else torch.float16


def _memory(kind: str) -> int:
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return CPU_CACHE

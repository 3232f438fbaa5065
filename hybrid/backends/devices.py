"""The device of this machine that torch computes on, its number format and its free memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybrid.backends.capacity import BFLOAT16_FROM, CPU_CACHE
from hybrid.backends.memory import available
from hybrid.errors import CannotRun
from hybrid.machine import nvidia, threads

ON_THE_CPU = "on the CPU instead: CUDA_VISIBLE_DEVICES= in front of the command"


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

    Raises CannotRun without a `kind`, and where the machine has a GPU that torch cannot use.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    here = found.type if found else "cpu"
    if kind in ("auto", "cuda") and not found:
        refuse_unusable_gpu("torch")
    if kind not in ("auto", "cpu", here):
        raise CannotRun(f"this machine has no '{kind}' device that torch can use", hint=f"here: {here}, cpu")
    kind = here if kind == "auto" else kind
    if kind == "cuda":
        try_kernel()
    limit_threads()
    return Device(kind, _name(kind), _dtype(kind, dtype), _memory(kind))


def refuse_unusable_gpu(program: str) -> None:
    """Raise CannotRun when this machine has a GPU that a `program` built on torch does not see: it would silently
    compute on the CPU, many times slower.
    """
    found = nvidia.own_gpu()
    if found is None:
        return
    cuda = torch.version.cuda
    if cuda is None:
        why, do = f"torch {torch.__version__} was built without CUDA", "install torch for CUDA"
    elif found.driver_too_old(cuda):
        why = f"torch for CUDA {cuda} needs driver {nvidia.MIN_DRIVER[int(cuda.partition('.')[0])]} or newer"
        do = "update the driver, or install torch for an earlier CUDA"
    else:
        why, do = "torch finds no CUDA device", "look at nvidia-smi, restart the machine, or take another"
    raise CannotRun(f"{program} cannot use the GPU {found}: {why}", hint=f"{do}; {ON_THE_CPU}")


def try_kernel() -> None:
    """Compute something small on the GPU. Raises CannotRun when torch has no code for it, or it does not work."""
    name, own = torch.cuda.get_device_name(), capability()
    if torch.version.hip is None and not any(_runs_on(own, arch) for arch in torch.cuda.get_arch_list()):
        raise CannotRun(
            "torch {} has no code for the GPU {} (compute capability {}.{})".format(torch.__version__, name, *own),
            hint=f"rent a T4 or newer (Kaggle: GPU T4 x2), or install an earlier torch; {ON_THE_CPU}",
        )
    try:
        float(torch.ones(8, device="cuda").sum())
    except RuntimeError as error:  # of CUDA, of the driver, out of memory
        first = str(error).partition("\n")[0]
        hint = f"who else uses it: nvidia-smi; restart the machine, or take another; {ON_THE_CPU}"
        raise CannotRun(f"the GPU {name} does not work: {first:.300}", hint=hint) from error


def _runs_on(own: tuple[int, int], arch: str) -> bool:
    """Whether code for `arch` ("sm_75", "compute_90") runs on a GPU: machine code within a major version, PTX later."""
    kind, _, digits = arch.partition("_")
    digits = digits.rstrip("af")
    if not digits.isdecimal():
        return False
    built = int(digits[:-1]), int(digits[-1])
    return built <= own and (kind == "compute" or built[0] == own[0])


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
    supported = kind == "cuda" and capability() >= BFLOAT16_FROM and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if supported or kind == "xpu" else torch.float16


def _memory(kind: str) -> int:
    if kind == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return CPU_CACHE

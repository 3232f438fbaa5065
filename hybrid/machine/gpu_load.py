"""How busy the GPUs are that this process may use, as NVML tells it, or nvidia-smi where that library is missing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hybrid.errors import CannotRun
from hybrid.machine.late_imports import import_object
from hybrid.machine.nvidia import Gpu, gpus, own_gpus

LOG = logging.getLogger("hybrid")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """The GPUs that this process may use, at one moment. None is what the driver does not tell.

    `busy` is the mean of their utilization in per cent and `busiest` the highest: the share of the last moments in
    which a kernel was running, which says nothing of how well it used the GPU. `power` (watts), `memory_used` and
    `memory_total` (MiB) are sums over the GPUs, and include what other processes use.
    """

    count: int
    busy: float | None
    busiest: float | None
    power: float | None
    memory_used: float | None
    memory_total: float | None


def load_of(own: Sequence[Gpu]) -> GpuLoad:
    """The load of some GPUs. A sum is None when one of them does not tell its part."""
    busy = [gpu.busy for gpu in own if gpu.busy is not None]
    return GpuLoad(
        len(own),
        sum(busy) / len(busy) if busy else None,
        max(busy, default=None),
        _sum(gpu.power for gpu in own),
        _sum(gpu.memory_used for gpu in own),
        _sum(gpu.memory_total for gpu in own),
    )


def gpu_reader() -> Callable[[], GpuLoad] | None:
    """What reads the load of this process's GPUs; None where it has none. A reading never raises.

    NVML costs microseconds (NVIDIA's management library, by the package nvidia-ml-py, which the extra `nvidia`
    installs); nvidia-smi is a process that takes up to a second.
    """
    try:
        nvml = import_object("pynvml", needed_for="reading NVML")
        return partial(_read_nvml, nvml, _handles(nvml))
    except CannotRun:
        why = "the library nvidia-ml-py is not installed"
    except Exception as error:  # noqa: BLE001  a driver in any state: a worker goes on without these figures
        why = f"NVML cannot be read: {error}"
    if shutil.which("nvidia-smi") is None or not own_gpus(gpus()):
        return None
    LOG.info("the load of the GPU is read from nvidia-smi: %.200s", why)
    return lambda: load_of(own_gpus(gpus()))


def _handles(nvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that this process may use. Raises NVMLError; ValueError when there are none."""
    nvml.nvmlInit()
    handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    known = [Gpu(str(number), uuid=str(nvml.nvmlDeviceGetUUID(one))) for number, one in enumerate(handles)]
    own = [handles[int(gpu.name)] for gpu in own_gpus(known)]
    if not own:
        raise ValueError("this process may use no GPU")
    return own


def _read_nvml(nvml: Any, handles: Sequence[Any]) -> GpuLoad:
    return load_of([_gpu(nvml, one) for one in handles])


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = _told(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    busy = _told(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    power = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
    used, total = (None, None) if memory is None else (memory.used // MIB, memory.total // MIB)
    return Gpu("", used, total, busy, power=power)


def _told(nvml: Any, ask: Callable[[], Any]) -> Any:
    """An answer of NVML; None where the GPU does not have it (a part of a GPU, an old one), or is lost."""
    try:
        return ask()
    except (nvml.NVMLError, OSError, ValueError):
        return None


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known or not known else float(sum(one for one in known if one is not None))

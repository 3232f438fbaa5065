"""The NVIDIA GPUs of this machine as nvidia-smi lists them, and what keeps programs built for CUDA from using one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FIELDS = (
    "name",
    "memory.used",
    "memory.total",
    "utilization.gpu",
    "driver_version",
    "compute_cap",
    "uuid",
    "power.draw",
)
TIMEOUT_SECONDS = 10
MIN_CAPABILITY = (7, 5)
"""Current torch and vLLM have no code for older GPUs: P100 (6.0), V100 (7.0)."""
MIN_DRIVER = {12: 525, 13: 580}
"""The major version of CUDA that a program was built for -> the oldest driver that runs it (NVIDIA's table)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. Memory is in MiB, `busy` in per cent, `power` in watts; None and "" are what is not told of it."""

    name: str
    memory_used: int | None = None
    memory_total: int | None = None
    busy: int | None = None
    driver: str = ""
    capability: tuple[int, int] | None = None
    uuid: str = ""
    power: float | None = None

    def __str__(self) -> str:
        known = [f"driver {self.driver}"] if self.driver else []
        known += ["compute capability {}.{}".format(*self.capability)] if self.capability else []
        return f"{self.name} ({', '.join(known)})" if known else self.name

    def too_old(self) -> bool:
        """Whether current torch and vLLM have no code for it."""
        return self.capability is not None and self.capability < MIN_CAPABILITY

    def driver_too_old(self, cuda: str) -> bool:
        """Whether its driver cannot run programs that were built for this version of CUDA, such as "13.0"."""
        oldest, driver = MIN_DRIVER.get(_number(cuda) or 0), _number(self.driver)
        return None not in (oldest, driver) and (driver or 0) < (oldest or 0)


def gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi lists, in its order; none where it is not installed or fails."""
    program = shutil.which("nvidia-smi")
    if program is None or not Path(program).is_absolute():  # a program of the current folder is anybody's
        return []
    for fields in (FIELDS, tuple(one for one in FIELDS if one != "compute_cap")):  # which an old one does not know
        command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True).stdout  # noqa: S603
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
        lines = [line for line in told.splitlines() if line.strip()]
        return [_gpu(dict(zip(fields, map(str.strip, line.split(",")), strict=False))) for line in lines]
    return []


def visible() -> list[str]:
    """The GPUs that programs may use, as CUDA_VISIBLE_DEVICES names them: by default their numbers in `gpus`."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [str(number) for number in range(len(gpus()))]
    names = [one.strip() for one in chosen.split(",")]
    return [] if hidden() else list(dict.fromkeys(filter(None, names)))


def own_gpu() -> Gpu | None:
    """The first GPU that this process may use; None where there is none."""
    return next(iter(own_gpus(gpus())), None)


def own_gpus(found: Sequence[Gpu]) -> list[Gpu]:
    """Those of `found`, the GPUs of this machine, that this process may use, in the order of CUDA_VISIBLE_DEVICES."""
    if "CUDA_VISIBLE_DEVICES" not in os.environ or not found:
        return list(found)
    own: dict[str, Gpu] = {}
    for name in visible():
        if not name.isdecimal():  # MIG: a part of one of them
            gpu = next((gpu for gpu in found if gpu.uuid.startswith(name)), found[0])
        elif int(name) < len(found):
            gpu = found[int(name)]
        else:
            break  # CUDA ignores what follows, too
        own[gpu.uuid or name] = gpu
    return list(own.values())


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU from programs."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


def _gpu(row: Mapping[str, str]) -> Gpu:
    name, used, total, busy, driver, capability, uuid, power = (row.get(field, "") for field in FIELDS)
    major, _, minor = capability.partition(".")
    known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
    watts = _decimal(power)
    return Gpu(name[:100], _number(used), _number(total), _number(busy), driver[:20], known, uuid[:80], watts)


def _number(text: str) -> int | None:
    """The whole number that a text begins with; None for "[N/A]"."""
    whole = text.partition(".")[0]
    return int(whole) if whole.isdecimal() else None


def _decimal(text: str) -> float | None:
    """The number that a text is, such as "71.25"; None for "[N/A]"."""
    whole, _, part = text.partition(".")
    return float(text) if whole.isdecimal() and (not part or part.isdecimal()) else None

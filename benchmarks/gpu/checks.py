"""What a check of a GPU is, the machine that it runs on, and what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.backends.devices import Device, capability, find_device
from hybrid.training.measure import peak_bytes

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """What a check runs on. `forced`: a CPU, where all is small and only shows that the check runs."""

    device: Device
    capability: tuple[int, int]
    forced: bool = False

    @classmethod
    def here(cls, *, forced: bool) -> Machine:
        """This machine's GPU, or its CPU when `forced`. Raises CannotRun."""
        return cls(find_device("cpu" if forced else "cuda"), capability(), forced)

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device.kind)

    def peak(self, act: Callable[[], object]) -> int:
        """The peak of the bytes that `act` allocates on the device."""
        if self.device.kind != "cuda":
            return peak_bytes(act)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        act()
        return int(torch.cuda.max_memory_allocated()) - int(before)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.kind == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a GPU does what is expected of it; None where nothing is expected of this one, with the reason."""

    passed: bool | None
    figures: Mapping[str, Any]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check: what is expected, and what to do where that is not found. `needs`: libraries beside torch."""

    run: Callable[[Machine], Outcome]
    expected: str
    otherwise: str
    minutes: int = 10
    needs: tuple[str, ...] = ()

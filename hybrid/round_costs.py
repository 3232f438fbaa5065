"""Seconds and bytes that a round took on this machine. They differ from run to run, and are beside its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from hybrid.machine.late_imports import import_object
from hybrid.metrics import RoundMetrics


class Costs(dict[str, float]):
    """Name -> seconds or bytes."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + time.monotonic() - began

    def measure_memory(self, device: str) -> None:
        """The most bytes this process has had since `forget_peak`: of the GPU, or in memory where the system tells."""
        if device == "cuda":
            measured = import_object("torch.cuda:max_memory_allocated", needed_for="the memory of a GPU")
            self["peak_bytes"] = float(measured())
            return
        with suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM:"))
            self["peak_bytes"] = float(peak.split()[1]) * 1024


def forget_peak(device: str) -> None:
    """From here on the peak of the process's memory is counted anew; where the system refuses, from its start."""
    if device == "cuda":
        import_object("torch.cuda:reset_peak_memory_stats", needed_for="the memory of a GPU")()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: VmHWM becomes VmRSS


def with_costs(advance: Callable[[Any, int], RoundMetrics]) -> Callable[[Any, int], RoundMetrics]:
    """The method `round` of a loop whose lab is `lab`, with the seconds and the peak of memory of the whole round."""

    @wraps(advance)
    def measured(loop: Any, number: int) -> RoundMetrics:
        costs = Costs()
        forget_peak(loop.lab.device)
        with costs.timed("round_seconds"):
            found = advance(loop, number)
        costs.measure_memory(loop.lab.device)
        return replace(found, costs={"": costs})

    return measured

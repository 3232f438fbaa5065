"""What was to be expected of a run, beside what it has taken so far: the plan of the device that it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid.folder.runs import Run
from hybrid.machine import nvidia
from hybrid.plan.prediction import Prediction, predicted
from hybrid.status.attempts import Attempt

CPU = "cpu"


@dataclass
class Planner:
    """Plans runs, each once on a device, since a plan may take a second."""

    _known: dict[tuple[str, str], Prediction | None] = field(default_factory=dict)

    def of(self, run: Run, attempts: Sequence[Attempt]) -> Prediction | None:
        """The plan of a run; None where its device or its pipeline is not known here."""
        device = device_of(attempts) or ("" if attempts else _own_device())
        if not device:
            return None
        if (run.id, device) not in self._known:
            plan = predicted(run, device)
            self._known[run.id, device] = plan if plan and plan.seconds.high else None  # its models take no time
        return self._known[run.id, device]


def device_of(attempts: Sequence[Attempt]) -> str:
    """The GPU of the newest worker that has one, as its driver names it; "" where there is none."""
    named = [str(one.gpu.get("name") or "") for one in attempts if one.gpu and one.device != CPU]
    return next(filter(None, reversed(named)), "")


def _own_device() -> str:
    """What `run local` computes on here, unless it was told otherwise."""
    gpu = nvidia.own_gpu()
    return gpu.name if gpu else CPU

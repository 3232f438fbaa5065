"""What earlier runs of a model measured, read from a folder."""

from __future__ import annotations

from pathlib import Path

from hybrid.errors import HybridError
from hybrid.execution.timing import Timing, timing_of
from hybrid.folder.runs import join_folder, open_run, run_ids
from hybrid.plan.gpus import named_by
from hybrid.plan.measured import Measured

MOST_RUNS = 20
"""Runs of the same model that are read."""
LEAST_SECONDS = 5.0
"""Shorter runs tell nothing: an attempt's start is known to a second."""


def measured_in(folder: Path, backend: str, model: str) -> dict[str, Measured]:
    """What the runs of a folder that ask this one model measured, by the name of the device. Raises nothing."""
    found: dict[str, Measured] = {}
    for timing in _timings(folder, backend, model):
        gpus = {gpu.name for name in timing.devices if (gpu := named_by(name))}
        if len(gpus) == 1 and timing.seconds >= LEAST_SECONDS and timing.completion_tokens:
            one = Measured(1, timing.records, timing.prompt_tokens, timing.completion_tokens, timing.seconds)
            (name,) = gpus
            found[name] = found[name].with_another(one) if name in found else one
    return found


def _timings(folder: Path, backend: str, model: str) -> list[Timing]:
    try:
        place = join_folder(folder, make=False)
        found = []
        for id in run_ids(place):
            models = open_run(place, id).models
            if len(models) == 1 and (models[""].backend, models[""].name) == (backend, model):
                found.append(id)
    except (HybridError, OSError):
        return []
    return [timing for id in found[-MOST_RUNS:] if (timing := timing_of(folder, id))]

"""Federations on few rows, for tests of one method each."""

from __future__ import annotations

from typing import Any

from hybrid.loops import Lab
from hybrid.metrics import RoundMetrics
from hybrid.settings import build
from pipelines.atlas.loop import loop
from pipelines.atlas.pipeline import DATA, Atlas

SMALL = (
    "tasks=polarity,paraphrase", "clients=5", "samples=20", "dev=16", "rounds=2", "batch=8", "rank=4",
    "learning_rate=0.01", "fingerprint_rows=8",
)  # fmt: skip


def made(lab: Lab, method: str, *settings: str) -> Any:
    """The loop of a method with seed 0; `settings` replace those of `SMALL`."""
    pipeline = build(Atlas, [*SMALL, *settings, f"methods={method}"])
    inputs = pipeline.inputs()
    (series, *_) = pipeline.stages()[0].work.series(inputs.tasks)  # type: ignore[union-attr]
    return loop(pipeline, series, lab, inputs.tasks[DATA])


def results(lab: Lab, method: str, *settings: str) -> list[RoundMetrics]:
    """The records of all rounds."""
    federation = made(lab, method, *settings)
    try:
        return [federation.round(number) for number in range(federation.settings.rounds)]
    finally:
        federation.close()

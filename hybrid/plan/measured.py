"""How fast earlier runs were on a device: what the plan's model of it is corrected by."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hybrid.machine.terminal import count_of, duration
from hybrid.plan.gpus import Gpu
from hybrid.plan.memory import Needs
from hybrid.plan.shapes import ModelShape
from hybrid.plan.speed import Span, Work, seconds_of, starting, work_of
from hybrid.plan.workload import RoleLoad

SPREAD = 0.7, 1.5
"""How far from what was measured the same work may be another time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Runs of one model on one device: records, tokens, and seconds with the starts of the engine."""

    runs: int
    records: int
    prompt_tokens: int
    new_tokens: int
    seconds: float

    def with_another(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(
            self.runs + other.runs,
            self.records + other.records,
            self.prompt_tokens + other.prompt_tokens,
            self.new_tokens + other.new_tokens,
            self.seconds + other.seconds,
        )

    @property
    def work(self) -> Work:
        mean = (self.prompt_tokens + self.new_tokens) / max(1, self.records)
        return Work(self.prompt_tokens, self.new_tokens, self.records, mean)


def by_measurement(backend: str, shape: ModelShape, needs: Needs, gpu: Gpu, load: RoleLoad, past: Measured) -> Span:
    """Seconds of the answers to a load, by the model of the device as far as it was off for earlier runs.

    Answers are taken to be as long as they were, if they may be.
    """
    held = replace(needs, rows=max(1, min(needs.rows, past.records)))
    start = starting(backend, needs)
    low = seconds_of(backend, shape, held, gpu, past.work, good=True) + past.runs * start.low
    high = seconds_of(backend, shape, held, gpu, past.work, good=False) + past.runs * start.high
    factor = past.seconds / math.sqrt(low * high)
    share = min(1.0, past.new_tokens / max(1, past.records) * load.count / max(1, load.new))
    work = work_of(load, share)
    ends = (seconds_of(backend, shape, needs, gpu, work, good=good) for good in (True, False))
    middle = factor * math.sqrt(math.prod(ends))
    return Span(middle * SPREAD[0], middle * SPREAD[1])


def measured_words(past: Measured) -> str:
    """What a time is corrected by, for people."""
    runs = "an earlier run" if past.runs == 1 else f"{past.runs} earlier runs"
    return f"corrected by {runs} here: {count_of(past.records, 'record')} in {duration(past.seconds)}"

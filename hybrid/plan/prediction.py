"""What was to be expected of a run, from its spec alone: for showing it beside what is measured. It is kept nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import HybridError
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chosen_model import Engine
from hybrid.execution.roles import embedding_roles, stages_of_run
from hybrid.folder.runs import Run
from hybrid.machine.terminal import clean_line, count_of
from hybrid.plan.gpus import named_by
from hybrid.plan.money import price_table
from hybrid.plan.plans import plan_stages
from hybrid.plan.speed import Span
from hybrid.plan.words import span_of

MOST_TASKS = 2000
"""Runs of more tasks are not predicted: their items take long to make."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of all stages of a run on a device: items, tokens in, the bound of tokens out, seconds.

    `bound`: items and tokens are what they may come to. `usd_per_hour` of the cheapest known offer, and `where` that
    is; None and "" where no price is known.
    """

    device: str
    items: int
    prompt_tokens: int
    most_new_tokens: int
    seconds: Span
    bound: bool
    usd_per_hour: float | None = None
    where: str = ""

    def usd(self, seconds: float) -> float | None:
        """What so many seconds of the device cost."""
        return None if self.usd_per_hour is None else seconds / 3600 * self.usd_per_hour

    def lines(self) -> Iterator[str]:
        """The prediction for people."""
        most = "at most " if self.bound else ""
        out = f"{self.prompt_tokens:,} tokens in, at most {self.most_new_tokens:,} out"
        yield f"on {self.device}: {most}{count_of(self.items, 'item')}, {out}"
        if self.seconds.high:
            low, high = self.usd(self.seconds.low), self.usd(self.seconds.high)
            known = low is not None and high is not None
            money = f", ${low:,.2f} to ${high:,.2f} at {clean_line(self.where)}" if known else ""
            yield f"{span_of(self.seconds)} of one {self.device}{money}"

    def to_json(self) -> dict[str, Json]:
        """The prediction for programs."""
        return {
            "device": self.device,
            "items": self.items,
            "bound": self.bound,
            "prompt_tokens": self.prompt_tokens,
            "most_completion_tokens": self.most_new_tokens,
            "seconds": [round(self.seconds.low, 3), round(self.seconds.high, 3)],
            "usd_per_hour": self.usd_per_hour,
        }


def predicted(run: Run, device: str, options: Mapping[str, Mapping[str, str]] | None = None) -> Prediction | None:
    """The prediction for a run on the device of this name, as a driver or a worker's records give it.

    `options`: of the backends by role. None where it cannot be told: an unknown device, a pipeline that is not here.
    """
    gpu = named_by(device)
    if gpu is None:
        return None
    try:
        pipeline = pipeline_of(run)
        tasks: Mapping[str, Any] = run.tasks()
        if len(tasks) > MOST_TASKS:
            return None
        embeds, given = embedding_roles(pipeline), options or {}
        models = {
            role: Engine(one.backend, one.name, given.get(role, {}), embeds=role in embeds)
            for role, one in run.models.items()
        }
        plan = plan_stages(str(run.spec["pipeline"]), pipeline, stages_of_run(run, pipeline), tasks, models, [gpu])
        price = price_table().price(gpu.name)
    except HybridError:
        return None
    given_tokens, new = plan.tokens()
    about = (price.usd_per_hour, price.where) if price else (None, "")
    return Prediction(gpu.name, plan.items, given_tokens, new, plan.gpus[0].seconds, plan.is_bound, *about)

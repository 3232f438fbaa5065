"""Run the stages of a pipeline in memory, answered by a function: the data flow of a run, without a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from hybrid.canonical import encode
from hybrid.protocols import Inputs, Pipeline, Stage
from hybrid.records import Failure, Item, Output, reference_of

Answer = Callable[[Item], "str | Failure"]


def run_stages(pipeline: Pipeline, inputs: Inputs, answer: Answer) -> dict[str, list[Output]]:
    """Stage name -> its outputs as later stages get them; those of the last stage with their references."""
    done: dict[str, list[Output]] = {}
    stages = pipeline.stages()
    for stage in stages:
        outputs = [_output(item, stage, answer) for item in items_of(stage, inputs, done)]
        done[stage.name] = sorted(
            outputs, key=lambda one: (one.task, one.question, one.sample, encode(one.view), one.key)
        )
    last = stages[-1].name
    done[last] = with_references(done[last], inputs.references)
    return done


def items_of(stage: Stage, inputs: Inputs, done: Mapping[str, list[Output]]) -> list[Item]:
    """The items of a stage; it sees the stages that it names, and references only if it reads them."""
    if not stage.after:
        return list(stage.items(inputs.tasks))
    shown = inputs.references if stage.reads_references else {}
    return list(stage.items(inputs.tasks, {name: with_references(done[name], shown) for name in stage.after}))


def with_references(outputs: list[Output], references: Mapping[str, Any]) -> list[Output]:
    return [dataclasses.replace(one, reference=reference_of(references, one.question)) for one in outputs]


def _output(item: Item, stage: Stage, answer: Answer) -> Output:
    said = answer(item) if stage.asks_a_model else item.request.prompt
    text, error = (None, said) if isinstance(said, Failure) else (said, None)
    tuning = item.request.tuning
    trained = {"tuning": tuning.digest, "steps": 10 * tuning.epochs, "tokens": 1000} if tuning and text else {}
    key = item.key(stage.identity, "model")
    return Output(key, item.task, item.question, item.view, item.sample, text, error, None, "stop", trained=trained)

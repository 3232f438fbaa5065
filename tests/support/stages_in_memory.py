"""Run the stages of a pipeline in memory, answered by a function: the data flow of a run, without a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from hybrid.canonical import encode
from hybrid.protocols import Inputs, Pipeline, Stage
from hybrid.records import Failure, Item, Output, reference_of
from hybrid.walks import Replay, walked
from hybrid.work import FAILURE, Search

Answer = Callable[[Item], "str | Failure"]


def run_stages(pipeline: Pipeline, inputs: Inputs, answer: Answer) -> dict[str, list[Output]]:
    """Stage name -> its outputs as later stages get them; those of the last stage with their references."""
    done: dict[str, list[Output]] = {}
    stages = pipeline.stages()
    for stage in stages:
        outputs = [_output(item, stage, answer) for item in items_of(stage, inputs, done, answer)]
        done[stage.name] = sorted(
            outputs, key=lambda one: (one.task, one.question, one.sample, encode(one.view), one.key)
        )
    last = stages[-1].name
    done[last] = with_references(done[last], inputs.references)
    return done


def items_of(
    stage: Stage, inputs: Inputs, done: Mapping[str, list[Output]], answer: Answer = lambda item: ""
) -> list[Item]:
    """The items of a stage; it sees the stages that it names, and references only if it reads them."""
    shown = inputs.references if stage.reads_references else {}
    earlier = [{name: with_references(done[name], shown) for name in stage.after}] if stage.after else []
    if not isinstance(stage.work, Search):
        return list(stage.items(inputs.tasks, *earlier))
    outputs: dict[bytes, Output] = {}
    replay = Replay(lambda item: item.digest(stage.identity, "model"), outputs.get)
    for task in inputs.tasks:
        replay.start(task, stage.work.walk(task, inputs.tasks, *earlier))
    walked(replay, lambda key, item: _output(item, stage, answer), outputs, 100_000)
    return list(replay.items.values())


def with_references(outputs: list[Output], references: Mapping[str, Any]) -> list[Output]:
    return [dataclasses.replace(one, reference=reference_of(references, one.question)) for one in outputs]


def _output(item: Item, stage: Stage, answer: Answer) -> Output:
    failed = item.request.template.get(FAILURE)
    made = Failure(**failed) if failed else item.request.prompt
    said = answer(item) if stage.asks_a_model else made
    text, error = (None, said) if isinstance(said, Failure) else (said, None)
    tuning = item.request.tuning
    trained = {"tuning": tuning.digest, "steps": 10 * tuning.epochs, "tokens": 1000} if tuning and text else {}
    key = item.key(stage.identity, "model")
    return Output(key, item.task, item.question, item.view, item.sample, text, error, None, "stop", trained=trained)

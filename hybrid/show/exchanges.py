"""The exchanges of a run, one after another: each output beside the request that it answers, where that is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.errors import HybridError, UsageError, nearest
from hybrid.execution.assembly import assembled
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import Bound, bound
from hybrid.execution.local import chosen_folder, find_run, opened_run
from hybrid.execution.requests import Requests, requests_of
from hybrid.folder.runs import Run
from hybrid.folder.spec import ModelSpec
from hybrid.items import Adapter, Message, Request, Sampling
from hybrid.outputs import open_outputs
from hybrid.protocols import Stage
from hybrid.records import Output
from hybrid.work import Derive, Rounds

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
"""What the id of a run may be as a part of a path."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One output, and what was asked: None where it is not known. `model` is `BACKEND NAME`, `role` its role."""

    output: Output
    request: Request | None
    adapter: str = ""  # digest of the adapter
    tuning: str = ""  # digest of the training before the answer
    role: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Exchanges:
    """The exchanges of a stage as a stream. `missing` says why requests are not known, "" where they are."""

    stream: Iterator[Exchange]
    run: str
    stage: str
    stages: tuple[str, ...]  # those that ask a model
    models: dict[str, ModelSpec]  # by role; empty without a run
    missing: str = ""


@contextmanager
def exchanges_of(source: str, folder: Path | None, stage: str = "") -> Iterator[Exchanges]:
    """What SOURCE, an outputs file or a run, holds. Of a run it is a stage's, by default the last that asks its model.

    Raises UsageError for an unknown stage, Waits while the items of the stage are not known, BadData.
    """
    with ExitStack() as stack:
        run = find_run(source, folder)
        if run is not None:
            yield _of_run(stack, run, stage)
            return
        if stage:
            raise UsageError(f"{source} is a file: it has the outputs of one stage", hint="--stage is for a run")
        yield _of_file(stack, source, folder)


def asking_stages(stages: tuple[Stage, ...]) -> list[Stage]:
    """The stages that send requests to a model."""
    return [stage for stage in stages if not isinstance(stage.work, Derive | Rounds)]


def _of_run(stack: ExitStack, run: Run, name: str) -> Exchanges:
    chain = bound(run, pipeline_of(run))
    stage = _chosen(run, chain, name)
    assembly = stack.enter_context(assembled(chain.run, stage))
    requests, missing = _requests(stack, run, stage.name)
    names = tuple(one.name for one in asking_stages(chain.stages))
    models = dict(run.models)
    stream = (_exchange(output, requests, models, stage.role) for output in assembly.outputs())
    return Exchanges(stream, run.id, stage.name, names, models, missing)


def _chosen(run: Run, chain: Bound, name: str) -> Stage:
    """The stage of that name; without one the last that asks the run's first model, else the last of all."""
    if name:
        found = [stage for stage in chain.stages if stage.name == name]
        if not found:
            raise UsageError(f"{run.id} has no stage '{name}'", hint=nearest(name, [one.name for one in chain.stages]))
        return found[0]
    asking = asking_stages(chain.stages)
    return next((one for one in reversed(asking) if not one.role), (asking or list(chain.stages))[-1])


def _of_file(stack: ExitStack, source: str, folder: Path | None) -> Exchanges:
    outputs = open_outputs(source)
    stack.callback(outputs.close)
    records = stack.enter_context(closing(outputs.records()))
    id = str(outputs.run.get("id") or "")
    models, stage = dict[str, ModelSpec](), ""
    requests: Requests | None = None
    try:
        run = _run_of(id, Path(source), folder)
        models, chain = dict(run.models), bound(run, pipeline_of(run))
        stage, role = chain.stages[-1].name, chain.stages[-1].role
        requests, missing = _requests(stack, run, stage)
    except HybridError as error:
        missing, role = error.message, ""
    stream = (_exchange(output, requests, models, role) for output in records)
    return Exchanges(stream, id, stage, (), models, missing)


def _requests(stack: ExitStack, run: Run, stage: str) -> tuple[Requests | None, str]:
    """The requests of a stage; None, and why, where they cannot be made again."""
    try:
        return stack.enter_context(requests_of(run, stage)), ""
    except HybridError as error:
        return None, error.message


def _run_of(id: str, path: Path, folder: Path | None) -> Run:
    """The run of an outputs file: its folder is the chosen one, or that in whose `results` the file lies."""
    if not RUN_ID.fullmatch(id):
        raise UsageError(f"{path}: does not say which run it came from")
    for place in (chosen_folder(folder), path.absolute().parent.parent.parent):
        if (place / "runs" / id / "run.json").is_file():
            return opened_run(place, id)
    raise UsageError(f"the run {id} is not at hand; --folder names its folder")


def _exchange(output: Output, requests: Requests | None, models: dict[str, ModelSpec], stage_role: str) -> Exchange:
    found = requests.of(output.key) if requests else None
    if found is None or requests is None:
        return Exchange(output, None)
    adapter, tuning = str(found.get("adapter") or ""), str(found.get("tuning") or "")
    role = requests.role_of(output.key) or stage_role
    model = models.get(role)
    return Exchange(
        output, request_from(found), adapter, tuning, role, f"{model.backend} {model.name}" if model else ""
    )


def request_from(value: dict[str, Any]) -> Request:
    """The request in the object that its key is made of, without its training."""
    how: dict[str, Any] = value["sampling"]
    return Request(
        Sampling(**{**how, "stop": tuple(how["stop"])}),
        messages=tuple(Message(one["role"], one["content"]) for one in value["messages"]),
        prompt=value["prompt"],
        template=value["template"],
        schema=value["schema"],
        logprobs=value["logprobs"],
        adapter=Adapter(value["adapter"], "") if value["adapter"] else None,
        embed=bool(value.get("embed")),
    )

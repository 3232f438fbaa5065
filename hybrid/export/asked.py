"""What a run asked, beside its outputs, and who answered, as far as the file and the folder tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import CannotRun, HybridError, UsageError
from hybrid.execution.local import opened_run
from hybrid.execution.requests import Requests, requests_of
from hybrid.export.graded_run import GradedRun
from hybrid.folder.runs import Run
from hybrid.records import Output


@dataclass(frozen=True, slots=True)
class Asked:
    """The requests of a run by key. `missing` says why there are none, "" where they are known."""

    requests: Requests | None
    missing: str = ""

    def of(self, key: str) -> dict[str, Any] | None:
        """The request of an output as an object (docs/format.md); None where it is not known."""
        return self.requests.of(key) if self.requests else None

    @property
    def notes(self) -> list[str]:
        """What to tell the user: that the prompts are missing, and why."""
        return [f"what the model was asked is not in it: {self.missing}"] if self.missing else []


@contextmanager
def asked_by(run: GradedRun) -> Iterator[Asked]:
    """What the run asked, as long as the block runs; nothing, with the reason, where its folder is not at hand."""
    with ExitStack() as stack:
        try:
            asked = Asked(stack.enter_context(requests_of(folder_run(run))))
        except HybridError as error:
            asked = Asked(None, error.message)
        yield asked


def folder_run(run: GradedRun) -> Run:
    """The run in its shared folder. Raises UsageError when the outputs do not name one, or it is not at hand."""
    if not run.folder or not run.outputs.run.get("id"):
        raise UsageError(
            f"{run.outputs.path}: the run that it came from is not at hand",
            hint="name the run, or its folder with --folder",
        )
    return opened_run(run.folder, run.id)


Prompt = str | list[dict[str, str]]
"""A text, or the messages of a chat (`role`, `content`)."""


def prompt_of(request: dict[str, Any]) -> Prompt:
    """The prompt of a request."""
    messages: list[dict[str, str]] = request["messages"]
    return messages or str(request["prompt"])


def shown_prompt(request: dict[str, Any] | None, output: Output) -> Prompt:
    """The prompt of the request; where that is not known, the question that the output's view tells, or ""."""
    if request:
        return prompt_of(request)
    question = output.view.get("question")
    return question if isinstance(question, str) else ""


def model_name(run: GradedRun) -> str:
    """`BACKEND/MODEL` of the run's first model; the name in the file without a run; "unknown" when it has none."""
    spec = run.outputs.run
    first = (spec.get("models") or {}).get("", {}) if isinstance(spec.get("models"), dict) else {}
    backend, name = first.get("backend") or spec.get("backend"), first.get("name") or spec.get("model")
    if isinstance(backend, str) and isinstance(name, str):
        return f"{backend}/{name}"
    named = next((one["name"] for one in run.outputs.models if isinstance(one, dict) and one.get("name")), "unknown")
    return str(named)


def task_name(run: GradedRun) -> str:
    """What other tools call the task: the pipeline, else the name of the file."""
    return run.pipeline or run.id


def provenance(run: GradedRun) -> dict[str, Json]:
    """What hybrid knows of a run that other formats have no place for."""
    summary = run.summary
    kept = ("unit", "n", "score", "interval", "method", "ungraded", "questions")
    grades: Json = {name: summary[name] for name in kept if name in summary}
    models = [dict(one) for one in run.outputs.models if isinstance(one, dict)]
    return {"run": run.id, "outputs_sha256": run.outputs.sha256, "models": models, "grades": grades}


def made_at(run: GradedRun) -> datetime:
    """When the outputs were made: the time of their file, or SOURCE_DATE_EPOCH in seconds. Raises CannotRun."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = int(fixed) if fixed else int(run.outputs.path.stat().st_mtime)
        return datetime.fromtimestamp(seconds, UTC)
    except (OSError, ValueError, OverflowError) as error:
        raise CannotRun(f"the time of {run.outputs.path} cannot be read: {error}") from error

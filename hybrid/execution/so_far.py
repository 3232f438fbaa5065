"""The outputs of a run whose last stage still waits for earlier ones, made of what these have now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hybrid.backends.derived import DerivedBackend
from hybrid.canonical import encode
from hybrid.errors import Waits
from hybrid.execution.assembly import outputs_of
from hybrid.execution.chain import bound
from hybrid.execution.search_records import keys_of
from hybrid.folder.runs import Run
from hybrid.machine import home
from hybrid.outputs import write_outputs
from hybrid.protocols import Pipeline, Stage
from hybrid.records import Record
from hybrid.work import Derive


def write_so_far(run: Run, pipeline: Pipeline, path: Path, waits: Waits) -> None:
    """Write what the last stage derives from the records that are there; what has none is a failure `missing`.

    The file has the form of outputs.json, and its records are kept nowhere else. Raises `waits` where the last stage
    makes no sense of unfinished ones.
    """
    chain = bound(run, pipeline, waits=False)
    last = chain.stages[-1]
    if not (isinstance(last.work, Derive) and last.work.of_unfinished):
        raise waits
    chain.refuse_waiting()  # reads the earlier stages, and with them which models answered
    outputs = outputs_of(chain.run, _lines(chain.run, last), run.references())
    write_outputs(path, {**run.spec, "id": run.id}, chain.models([]), run.tasks(), outputs, home.parts_folder())


def _lines(run: Run, stage: Stage) -> Iterator[bytes]:
    """The records that the stage's engine would write, in the order of its items."""
    engine, key_of = DerivedBackend("", ""), keys_of(run, stage, "")
    for item in stage.items(run.tasks()):
        for done in engine.generate([replace(item.request, key=key_of(item).hex())]):
            yield encode(Record(done.key, item.task, item.question, item.view, item.sample, done).to_json())

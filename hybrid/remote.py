"""What a laptop does with a run that others work on: submit it, take over its results, stop it, ask for repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from hybrid import machine, settings
from hybrid.errors import UsageError
from hybrid.folder import orders
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run, join_folder, submit
from hybrid.local import assemble, opened_run
from hybrid.protocols import Pipeline
from hybrid.receiving import MOST_NAMED, Received, Receiver
from hybrid.runner import StageWork
from hybrid.stock import Stock
from hybrid.workplace import pipeline_of


def submit_remote(folder: Path, name: str, pipeline: Pipeline, backend: str, model: str, model_digest: str) -> Run:
    """Freeze a run into the folder for whoever works there. The same settings and data are the same run.

    `model_digest` pins the model's files; with "" those of the first worker are the run's. Submitting a cancelled run
    again takes the cancel back. The folder is never made here: behind a mount that is away it would be a plain one.
    """
    frozen, inputs = settings.freeze(pipeline), pipeline.inputs()
    place = join_folder(folder, make=False)
    run = submit(place, name, frozen, inputs, backend=backend, model=model, model_digest=model_digest)
    receiver = receiver_of(folder, run)
    if (known := receiver.orders()).cancelled:
        receiver.order(orders.resume(known))
    return run


def receiver_of(folder: Path, run: Run) -> Receiver:
    """Who takes over shards of a run on this machine."""
    return Receiver(run, Disk(machine.received_of(folder)), machine.name())


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a run stands on this machine after a fetch. `items` are those of its last stage."""

    run: Run
    new: Received
    items: int
    missing: int
    failed: int
    again: int  # of those that failed, how many are to be done again
    outputs: Path
    sha256: str

    @property
    def done(self) -> bool:
        return not self.missing and not self.again


def fetch(folder: Path, name: str, outputs: Path) -> Fetched:
    """Take over what is new of a run, acknowledge it, and put outputs.json together.

    Raises Temporary when the folder is away or a disk is full: nothing is lost, the same call goes on.
    """
    run = opened_run(folder, name)
    pipeline = pipeline_of(run)
    receiver = receiver_of(folder, run)
    new = receiver.receive([stage.name for stage in pipeline.stages()])
    here = replace(run, sources=(Disk(machine.received_of(folder)),))  # what arrives meanwhile is for the next fetch
    done = assemble(here, pipeline.stages()[-1], outputs)
    again = _again(here, pipeline, receiver.orders().set_aside) if done.failed else 0
    return Fetched(run, new, done.items, done.missing, done.failed, again, outputs, done.sha256)


def _again(run: Run, pipeline: Pipeline, aside: set[str]) -> int:
    """How many failed items somebody has asked for again, and has no newer record of."""
    count = 0
    for stage in pipeline.stages() if aside else ():
        stock = Stock(run, stage.name, run.model_digest(stage.name))
        stock.look()
        count += len(stock.failed() - stock.failed(aside))
    return count


def cancel(folder: Path, name: str) -> Run:
    """Ask the workers of a run to stop. Nothing is deleted; `resume` or submitting it again takes it back."""
    run = opened_run(folder, name)
    receiver = receiver_of(folder, run)
    if not receiver.orders().cancelled:
        receiver.order(orders.CANCEL)
    return run


def retry(folder: Path, name: str) -> tuple[Run, int]:
    """Ask for the failed items of a run again. Returns the run and how many items are to be done again."""
    run = opened_run(folder, name)
    receiver = receiver_of(folder, run)
    aside, count, shards = receiver.orders().set_aside, 0, set[str]()
    for stage in pipeline_of(run).stages():
        work = StageWork(run, stage, run.tasks(), run.model_digest(stage.name))
        work.look(aside)
        failed = work.stock.failed(aside).intersection(work.keys)
        count += len(failed)
        shards |= work.stock.failed_shards() - aside
    if not count and (pending := _again(run, pipeline_of(run), aside)):
        return run, pending
    if not count:
        raise UsageError(f"{run.id} has no failed items to do again", hint="`hybrid status` tells how it stands")
    named = sorted(shards)
    for first in range(0, len(named), MOST_NAMED):
        receiver.order(orders.retry(set(named[first : first + MOST_NAMED])))
    return run, count

"""Do a stage: every item without a record is given to the backend, and its record is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hybrid.errors import BadData, NotFinished, Temporary
from hybrid.folder.names import new_attempt
from hybrid.folder.runs import Run
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.progress import Observer
from hybrid.protocols import Backend, Model, Stage
from hybrid.records import Completion, Item, Record, Request


@dataclass(frozen=True, slots=True)
class StageResult:
    """How a stage stands: `total` items, all with a record, `failed` of them an error, `fresh` ones done just now."""

    total: int
    failed: int
    fresh: int


class Stock:
    """What a stage's verified shards hold already: the keys of its items, never the records themselves."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.good: set[bytes] = set()
        self.failed: set[bytes] = set()
        for _, shard in run.shards(stage.name, []):
            for record in shard.records:
                (self.failed if record["error"] else self.good).add(bytes.fromhex(record["key"]))
        self.failed -= self.good

    def done(self, *, retry_failed: bool) -> set[bytes]:
        """The items that need no work. A failed one is done too, unless failures are to be tried again."""
        return self.good if retry_failed else self.good | self.failed


@dataclass(frozen=True, slots=True)
class Work:
    """A stage of a run, and the items of it that are left to do, by raw key."""

    run: Run
    stage: Stage
    tasks: Mapping[str, Any]
    left: set[bytes]

    def key(self, item: Item) -> str:
        return item.key(self.stage.identity, str(self.run.spec["model_digest"]))

    def items(self) -> Iterator[tuple[str, Item]]:
        """All items of the stage with their keys, in order."""
        return ((self.key(item), item) for item in self.stage.items(self.tasks))


def run_stage(
    run: Run,
    stage: Stage,
    backend: Callable[[], Backend],
    observer: Observer,
    *,
    shard_seconds: float = 60.0,
    retry_failed: bool = False,
) -> StageResult:
    """Work off a stage. Nothing finished is done again; a kill loses the open shard at most.

    `backend` loads the model and is called only when an item is left to do. Raises NotFinished on Ctrl-C, after the
    open shard is closed; Temporary when the disk is full or the engine left items unanswered.
    """
    stock = Stock(run, stage)
    work = Work(run, stage, run.tasks(), set())
    keys = {bytes.fromhex(key) for key, _ in work.items()}
    work.left.update(keys - stock.done(retry_failed=retry_failed))
    failed, before = keys & stock.failed, len(keys) - len(work.left)
    done = before
    observer.started(stage.name, len(keys), before)
    try:
        for completion in _completions(work, backend, observer, shard_seconds):
            raw = bytes.fromhex(completion.key)
            (failed.add if completion.error else failed.discard)(raw)
            done += 1
    except KeyboardInterrupt as error:
        raise NotFinished(
            f"stopped at {done} of {len(keys)} items of {run.id}; what is done is kept",
            hint="run the same command again to go on",
        ) from error
    finally:
        observer.ended()
    if done < len(keys):
        raise Temporary(f"the engine left {len(keys) - done} items of {run.id} unanswered", hint="run it again")
    return StageResult(len(keys), len(failed), done - before)


def _completions(
    work: Work, backend: Callable[[], Backend], observer: Observer, shard_seconds: float
) -> Iterator[Completion]:
    """Give the backend what is left and keep its completions, in whatever order they come, in this attempt's shards."""
    if not work.left:
        return
    engine = backend()
    if engine.model.digest != work.run.spec["model_digest"]:
        raise BadData(f"the model {engine.model.name} is not the one this run was frozen with", hint="run it again")
    observer.working()
    asked: dict[str, Item] = {}

    def requests() -> Iterator[Request]:
        for key, item in work.items():
            if (raw := bytes.fromhex(key)) in work.left:
                work.left.discard(raw)
                asked[key] = item
                yield replace(item.request, key=key)

    attempt = new_attempt()
    header, folder = _header(work, attempt, engine.model), work.run.path / work.stage.name / attempt
    with ShardWriter(folder, header, seconds=shard_seconds, on_close=observer.closed_shard) as writer:
        for completion in engine.generate(requests()):
            item = asked.pop(completion.key)
            writer.add(Record(completion.key, item.task, item.question, item.view, item.sample, completion))
            observer.finished_item(completion)
            yield completion


def _header(work: Work, attempt: str, model: Model) -> dict[str, object]:
    about = {"name": model.name, "digest": model.digest, "about": dict(model.about)}
    run, stage = work.run.id, work.stage.name
    return {"format": FORMAT, "version": 1, "run": run, "stage": stage, "attempt": attempt, "model": about}

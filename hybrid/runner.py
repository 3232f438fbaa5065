"""Do a stage: every item without a record is given to the backend, and its record is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from hybrid.errors import BadData, NotFinished
from hybrid.folder.names import new_attempt
from hybrid.folder.runs import Run
from hybrid.folder.shards import FORMAT, ShardWriter
from hybrid.progress import Observer
from hybrid.protocols import Backend, Model, Stage
from hybrid.records import Completion, Item, Record, Request


@dataclass(frozen=True, slots=True)
class StageResult:
    """How a stage stands: `total` items, of which `done` have a record and `failed` have an error record."""

    total: int
    done: int
    failed: int
    refused: tuple[str, ...]  # files passed over, and why


class Stock:
    """What a stage's verified shards hold already: the keys of its items, never the records themselves."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.refused: list[str] = []
        self.good: set[bytes] = set()
        self.failed: set[bytes] = set()
        for _, shard in run.shards(stage.name, self.refused):
            for record in shard.records:
                (self.failed if record.get("error") else self.good).add(bytes.fromhex(str(record["key"])))
        self.failed -= self.good

    def has(self, key: str, *, retry_failed: bool) -> bool:
        """Whether the item needs no work. A failed one is done too, unless failures are to be tried again."""
        raw = bytes.fromhex(key)
        return raw in self.good or (raw in self.failed and not retry_failed)


def run_stage(
    run: Run,
    stage: Stage,
    model_digest: str,
    backend: Callable[[], Backend],
    observer: Observer,
    *,
    shard_seconds: float = 60.0,
    retry_failed: bool = False,
) -> StageResult:
    """Work off a stage. Nothing finished is done again; a kill loses the open shard at most.

    `backend` loads the model and is called only when an item is left to do. Raises NotFinished on Ctrl-C, after the
    open shard is closed; Temporary when the disk is full.
    """
    tasks, stock = run.tasks(), Stock(run, stage)
    keys = {item.key(_identity(stage), model_digest) for item in stage.items(tasks)}
    left = {key for key in keys if not stock.has(key, retry_failed=retry_failed)}
    failed = {key for key in keys if bytes.fromhex(key) in stock.failed}
    done = len(keys) - len(left)
    observer.started(stage.name, len(keys), done)
    try:
        if left:
            for completion in _work(run, stage, model_digest, tasks, left, backend(), observer, shard_seconds):
                (failed.add if completion.error else failed.discard)(completion.key)
                done += 1
    except KeyboardInterrupt as error:
        raise NotFinished(
            f"stopped at {done} of {len(keys)} items of {run.id}; what is done is kept",
            hint="run the same command again to go on",
        ) from error
    finally:
        observer.ended()
    return StageResult(len(keys), done, len(failed), tuple(stock.refused))


def _work(
    run: Run,
    stage: Stage,
    model_digest: str,
    tasks: dict[str, object],
    left: set[str],
    backend: Backend,
    observer: Observer,
    shard_seconds: float,
) -> Iterator[Completion]:
    """Give the backend what is left and keep its completions, in whatever order they come, in this attempt's shards."""
    if backend.model.digest != model_digest:
        raise BadData(f"the model {backend.model.name} changed while it was loaded", hint="run the same command again")
    asked: dict[str, Item] = {}

    def requests() -> Iterator[Request]:
        for item in stage.items(tasks):
            key = item.key(_identity(stage), model_digest)
            if key in left:
                left.discard(key)
                asked[key] = item
                yield replace(item.request, key=key)

    attempt = new_attempt()
    header, folder = _header(run, stage, attempt, backend.model), run.path / stage.name / attempt
    with ShardWriter(folder, header, seconds=shard_seconds, on_close=observer.closed_shard) as writer:
        for completion in backend.generate(requests()):
            item = asked.pop(completion.key)
            writer.add(Record(completion.key, item.task, item.question, item.view, item.sample, completion))
            observer.finished_item(completion)
            yield completion


def _identity(stage: Stage) -> str:
    return f"{stage.name}/{stage.version}"


def _header(run: Run, stage: Stage, attempt: str, model: Model) -> dict[str, object]:
    about = {"name": model.name, "digest": model.digest, "about": dict(model.about)}
    return {"format": FORMAT, "version": 1, "run": run.id, "stage": stage.name, "attempt": attempt, "model": about}

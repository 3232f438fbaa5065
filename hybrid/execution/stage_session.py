"""A stage while it is worked off: its records go into shards as they come, and its progress is told."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import CannotRun, HybridError, NotFinished, Temporary
from hybrid.execution.ensemble import Ensemble, unheard
from hybrid.execution.rounds_work import TICK, RoundsWork
from hybrid.execution.search_work import SearchWork
from hybrid.execution.stage_view import StageView
from hybrid.execution.stage_work import StageWork
from hybrid.folder.medium import Medium
from hybrid.folder.names import new_attempt, stage_name
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import Run
from hybrid.folder.shards import FORMAT, ShardWriter, pack
from hybrid.machine.clock import Clock
from hybrid.machine.terminal import count_of
from hybrid.progress import Observer, ProgressCounts
from hybrid.protocols import Backend, Model, Stage
from hybrid.records import Completion, Record
from hybrid.work import Rounds, Search

AnyWork = StageWork | SearchWork  # that of rounds is a StageWork


def beginning(work: AnyWork) -> Mapping[str, Json]:
    """The heartbeat of a worker that begins with a stage, or has none of it. One of rounds says that it has no series:
    others leave it its share.
    """
    if not isinstance(work, RoundsWork):
        return {"state": "begins"}
    return {"state": "begins", "claim": {"stage": work.stage.name, "size": work.size, "blocks": work.claimed()}}


class StageSession:
    """A stage while a worker works on it: its claim, its heartbeat, its shard timer. `gauges` measures the machine,
    `device` is what the engine computes on.
    """

    def __init__(
        self,
        work: AnyWork,
        writer: ShardWriter,
        gauges: Callable[[], Mapping[str, Json]],
        clock: Clock,
        device: str = "",
    ) -> None:
        self.work, self.writer, self._gauges, self._device = work, writer, gauges, device
        self.counts = ProgressCounts(clock.now)
        self.counts.begin(work.stage.name, work.total, work.total - work.left)
        self.counts.grows = work.grows

    @property
    def run(self) -> str:
        return self.work.run.id

    def tick(self) -> None:
        self.writer.tick()

    def end(self) -> None:
        """Close the open shard before what is held is given up, so that others find its records first."""
        try:
            self.writer.close()
        finally:
            self.work.give_up()

    def look(self, set_aside: Collection[str]) -> None:
        self.work.look(set_aside)

    def claim(self) -> Mapping[str, Json]:
        roles = getattr(self.work, "roles", None)
        divided = {} if roles is None else {"roles": sorted(roles)}
        return {"stage": self.work.stage.name, "size": self.work.size, "blocks": self.work.claimed(), **divided}

    @property
    def settling(self) -> bool:
        """`hybrid.worker.courier.Session`."""
        return isinstance(self.work, RoundsWork) and self.work.settling

    def answered(self, completion: Completion) -> Record:
        """The record of an answer, which is counted."""
        record = self.work.answered(completion)
        self.counts.add(counted(self.work.stage, completion))
        if self.work.grows:
            self.counts.total = self.work.total
        return record

    def report(self) -> Mapping[str, Json]:
        return {
            "progress": self.counts.to_json(),
            "open_records": self.writer.open_records,
            "model": self.work.digest,
            "device": self._device,
            **({"round": self.work.latest} if isinstance(self.work, RoundsWork) and self.work.latest else {}),
            **self._gauges(),
        }


def work_on(
    run: Run, stage: Stage, tasks: Mapping[str, Any], digests: Mapping[str, str], attempt: str, start: int = 0
) -> AnyWork:
    """A stage as an attempt works on it. `digests` are those of its models by role, "" being the stage's own."""
    if isinstance(stage.work, Search):
        return SearchWork(run, stage, tasks, digests, attempt)
    kind = RoundsWork if isinstance(stage.work, Rounds) else StageWork
    return kind(run, stage, tasks, digests[""], start)


def place_of(work: AnyWork) -> str:
    """A name of the stage and exactly these items of it, for the claims of this machine's workers."""
    items = hashlib.blake2b(b"".join(getattr(work, "keys", ())), digest_size=16).hexdigest()
    roles = getattr(work, "roles", None)
    return "/".join(
        [
            work.run.id,
            work.stage.name,
            str(work.size),
            work.digest,
            items,
            *(["+".join(sorted(roles))] if roles else []),
        ]
    )


def shard_header(work: AnyWork, attempt: str, engine: Backend) -> dict[str, object]:
    """The header of the shards that an attempt writes: the models of its engine are what answers."""
    if engine.model.digest != work.digest:
        raise CannotRun(
            f"the model {engine.model.name} that was loaded is not the one of {work.run.id}",
            hint="did its files change meanwhile? run the command again",
        )
    return _header(work.run, work.stage, attempt, engine)


def _header(run: Run, stage: Stage, attempt: str, engine: Backend) -> dict[str, object]:
    about = _about(engine.model)
    if stage.role:
        about["role"] = stage.role
    if isinstance(engine, Ensemble) and engine.further:
        about["roles"] = {role: _about(one.model) for role, one in engine.further.items()}
    return {"format": FORMAT, "version": 1, "run": run.id, "stage": stage.name, "attempt": attempt, "model": about}


def bind(run: Run, stage: Stage, engine: Backend, medium: Medium, attempt: str) -> None:
    """Bind a stage to the model of an engine before there is a record: by a shard without one."""
    name, data = pack({**_header(run, stage, attempt, engine), "seq": 0}, [], 0)
    medium.write(f"{run.place}/{stage_name(stage.name)}/{attempt}/{name.batch}/{name}", data)


def shard_writer(
    work: AnyWork, engine: Backend, medium: Medium, attempt: str, journals: Journals | None, **how: Any
) -> ShardWriter:
    """The writer of the shards of an attempt at a stage; `how` is for it. What waits for a shard is in a journal.

    Texts that no model wrote are computed again in less time, and what a loop has computed is in its state.
    """
    stage = stage_name(work.stage.name)
    place = f"{work.run.place}/{stage}/{attempt}"
    if isinstance(work, SearchWork):
        how.setdefault("on_close", lambda path, count: work.closed_shard())
    writer = ShardWriter(medium, place, shard_header(work, attempt, engine), **how)
    if journals and work.stage.asks_a_model and not isinstance(work, RoundsWork):
        writer.journal = journals.journal(work.run.id, stage, attempt)
    return writer


def counted(stage: Stage, completion: Completion) -> Completion:
    """A completion as progress counts it: tokens of an answer that a derived record repeats were counted before."""
    return completion if stage.asks_a_model else replace(completion, prompt_tokens=0, completion_tokens=0)


def _about(model: Model) -> dict[str, Any]:
    return {"name": model.name, "digest": model.digest, "about": dict(model.about)}


def run_stage(
    run: Run,
    stage: Stage,
    backend: Callable[[], Backend],
    observer: Observer,
    *,
    shard_seconds: float = 60.0,
    retry_failed: bool = False,
    journals: Journals | None = None,
) -> tuple[StageView, int]:
    """Execute a stage on this machine alone. Returns its status afterwards, and how many items were done just now.

    No finished item is done again: a killed process leaves the open shard in one of the `journals`. `backend` loads the
    model, and is called only when an item is left to do. Raises NotFinished on Ctrl-C, after the open shard is closed;
    Temporary when the disk is full or the engine left items unanswered.
    """
    attempt, digests = new_attempt(), {role: run.models[role].digest for role in stage.roles}
    digests[""] = run.models[stage.role].digest
    work = work_on(run, stage, run.tasks(), digests, attempt)
    work.look()
    if retry_failed:
        work.retry_failed()
    before = work.total - work.left
    observer.started(stage.name, work.total, before)
    done = 0
    try:
        if work.left:
            engine, how = backend(), {"seconds": shard_seconds, "on_close": observer.closed_shard}
            writer = shard_writer(work, engine, run.folder, attempt, journals, **how)
            for completion in _answered(work, engine, writer, observer, min(1.0, shard_seconds)):
                done += 1
                observer.finished_item(counted(stage, completion))
    except KeyboardInterrupt as error:
        total = count_of(work.total, "item")
        raise NotFinished(
            f"stopped at {before + done:,} of {total}{' so far' * work.grows} of {run.id}; what is done is kept",
            hint="run the same command again to go on",
        ) from error
    finally:
        observer.ended()
    if work.left:
        left = count_of(work.left, "item")
        raise Temporary(f"the engine left {left} of {run.id} unanswered", hint="run it again")
    return work.view(), done - (work.restored if isinstance(work, RoundsWork) else 0)


@contextmanager
def kept_at_once(work: AnyWork, engine: Backend, writer: ShardWriter) -> Iterator[None]:
    """Put what the engines of a search answer into the open shard while the walks still think about other answers."""
    if not (isinstance(engine, Ensemble) and isinstance(work, SearchWork)):
        yield
        return
    engine.on_answer = lambda completion: writer.put(work.record_of(completion))
    try:
        yield
    finally:
        engine.on_answer = unheard


def _answered(
    work: AnyWork, engine: Backend, writer: ShardWriter, observer: Observer, tick: float
) -> Iterator[Completion]:
    """Give the backend the items that are left, and write its answers, in any order, into shards of a new attempt."""
    observer.working()
    answers = work.answers(engine, work.nobody)
    with ticking(writer, tick) as failures, kept_at_once(work, engine, writer), closing(answers):
        for completion in answers:
            if completion is None:
                time.sleep(TICK)
                continue
            writer.add(work.answered(completion))
            if work.grows:
                observer.grown(work.total)
            yield completion
            if failures:
                raise failures[0]


@contextmanager
def ticking(writer: ShardWriter, seconds: float) -> Iterator[list[HybridError]]:
    """Close the writer's shards by age, in a thread, and the open one at the end. The list gets the thread's errors."""
    stop, failures = threading.Event(), list[HybridError]()

    def tick() -> None:
        while not stop.wait(seconds):
            try:
                writer.tick()
            except HybridError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=tick, name="shard-timer", daemon=True)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
        writer.close()

"""The status of runs, computed from the folder and this machine's own disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.canonical import Json, decode, digest
from hybrid.errors import BadData, HybridError, Missed, NotFinished, Temporary
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import bound
from hybrid.execution.index import Index
from hybrid.execution.sides import asked_on, parts
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.folder.medium import Disk, Medium
from hybrid.folder.names import BESIDE_STAGES, allowed
from hybrid.folder.orders import Orders, known_orders
from hybrid.folder.recovery import Journals
from hybrid.folder.runs import Run, open_run, run_ids
from hybrid.folder.spec import MAX_SPEC, check_spec
from hybrid.machine import home
from hybrid.machine.lock import is_locked
from hybrid.machine.terminal import clean_line, count_of
from hybrid.plan.prediction import Prediction
from hybrid.plugins import installed
from hybrid.protocols import Side, Stage
from hybrid.status.attempts import Attempt, read_attempts
from hybrid.status.circuit_breaker import CircuitBreaker, FolderUnavailable
from hybrid.status.next_command import worker_command
from hybrid.status.spent import NOTHING_SPENT, Spent, spent_on
from hybrid.status.waiting import SideState, side_states

MAX_LENGTH = 300
"""Most characters of a text from a folder or another machine."""
MAX_REFUSED = 100
"""Most skipped files that are named; the others are counted."""


def _cleaned(text: str) -> str:
    return clean_line(text, MAX_LENGTH)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The status of one run. A total over its stages is None while one stage's number of items is unknown.

    `why` says why the number of items is unknown, `error` why the whole run cannot be read. `refused` are the skipped
    files with the reasons. `unchanged` is the time in seconds since this machine first saw the present state, None
    when it sees it for the first time.
    """

    id: str
    about: dict[str, str] = field(default_factory=dict)  # pipeline, backend and model by their names in the run
    stages: tuple[StageView, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    cancelled: bool = False
    cancelled_by: tuple[str, ...] = ()  # names of the machines whose cancel orders are in force
    forgotten: bool = False  # for every machine, by an order in the folder
    notes: tuple[str, ...] = ()
    why: str = ""
    refused: tuple[str, ...] = ()
    error: HybridError | None = None
    unchanged: float | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[tuple[str, str, str], ...] = ()  # role, backend and name of every model
    open_here: int = 0  # records in open shards of this machine's processes
    local: bool = False  # whether `run local` is at work on it on this machine
    next_command: str = ""  # what goes on with it
    sides: tuple[SideState, ...] = ()  # what each side does, or waits for
    spent: Spent = NOTHING_SPENT
    planned: Prediction | None = None  # looked up for a named run only: it may take a second

    def sum(self, name: str) -> int:
        """The sum of one attribute over the stages, unknown values as 0."""
        return sum(getattr(stage, name) or 0 for stage in self.stages)

    @property
    def failed(self) -> int:
        """The number of failed items, each counted in the stage where it failed."""
        return self.sum("own_failures")

    @property
    def total(self) -> int | None:
        known = [stage.total for stage in self.stages]
        return None if None in known or not known else self.sum("total")

    @property
    def so_far(self) -> bool:
        """Whether more items may come than the total: a search has not ended."""
        return any(stage.so_far for stage in self.stages)

    @property
    def done(self) -> bool:
        """Whether every item has a record and none is to be done again."""
        return self.error is None and self.total is not None and self.total == self.sum("done")

    @property
    def begun(self) -> bool:
        """Whether there is any record of it, be it in an open shard of this machine."""
        return bool(self.sum("done") or self.open_here)

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for: done or cancelled."""
        return self.done or self.cancelled

    @property
    def exit_code(self) -> int:
        if self.error:
            return self.error.exit_code
        if not self.done:
            return NotFinished.exit_code
        return Missed.exit_code if self.failed else 0

    @property
    def stopped(self) -> bool:
        """Whether something is left to do, and nobody is known to be at work on it."""
        return self.error is None and not (self.over or self.at_work or self.local)

    @property
    def at_work(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.at_work]

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of all running workers, as they reported it; None when none did."""
        return _sum(one.tokens_per_second for one in self.at_work)

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Prompt tokens per second, as above."""
        return _sum(one.prompt_tokens_per_second for one in self.at_work)

    @property
    def items_per_minute(self) -> float | None:
        """Items of all stages per minute, as above."""
        per_second = _sum(one.items_per_second for one in self.at_work)
        return None if per_second is None else 60 * per_second

    @property
    def eta_seconds(self) -> float | None:
        """Remaining time at the reported speed; None when the number of items or the speed of a stage is unknown."""
        if self.total is None or self.over or self.so_far:
            return None
        times = [self._eta(stage) for stage in self.stages if stage.left]
        return None if None in times else sum(one for one in times if one is not None)

    def _models(self) -> dict[str, Json]:
        return {role: {"backend": backend, "model": name} for role, backend, name in self.models}

    def _eta(self, stage: StageView) -> float | None:
        per_second = sum(one.items_per_second or 0 for one in self.at_work if one.stage == stage.name)
        return (stage.left or 0) / per_second if per_second else None

    def to_json(self) -> dict[str, Json]:
        """One line of `--json`."""
        if self.error:
            error = {"message": _cleaned(self.error.message), "hint": _cleaned(self.error.hint)}
            return {"run": self.id, "exit_code": self.exit_code, "error": error}
        sums = {name: self.sum(name) for name in ("received", "again", "shards", "copies")}
        names = ("items_per_minute", "prompt_tokens_per_second", "tokens_per_second", "eta_seconds")
        speed = {name: getattr(self, name) for name in names}
        unchanged = None if self.unchanged is None else round(self.unchanged, 1)
        orders: dict[str, Json] = {"cancelled": self.cancelled, "cancelled_by": list(self.cancelled_by)}
        notes: dict[str, Json] = {"forgotten": self.forgotten, "notes": list(self.notes)}
        return {
            "run": self.id,
            **self.about,
            **({"models": self._models()} if len(self.models) > 1 else {}),
            "finished": self.done,
            **orders,
            **notes,
            "exit_code": self.exit_code,
            "error": None,
            "total": self.total,
            "so_far": self.so_far,
            "unknown": self.why,
            "done": self.sum("done"),
            "failed": self.failed,
            **sums,
            **speed,
            "unchanged_seconds": unchanged,
            "settings": self.spec["settings"],
            "stages": [stage.to_json() for stage in self.stages],
            "sides": [side.to_json() for side in self.sides],
            "spent": self.spent.to_json(),
            "planned": self.planned.to_json() if self.planned else None,
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "passed_over": list(self.refused),
        }


def read_statuses(
    folder: Medium,
    store: Disk,
    index: Index,
    name: str | None,
    on_read: Callable[[int], None] = lambda records: None,
    hidden: Collection[str] = (),
) -> Iterator[RunStatus]:
    """The status of every run in the folder that is not `hidden`, or of the run called `name` only.

    `store` holds what this machine received. `on_read` is called with the number of records that are about to be read.
    Raises Temporary when the folder is unavailable, UsageError when there is no such run.
    """
    guarded = CircuitBreaker(folder)
    ids = [one for one in run_ids(guarded) if one not in hidden] if name is None else [open_run(guarded, name).id]
    for id in ids:
        try:
            yield read_status(_run(guarded, id, store), store, index, on_read)
        except FolderUnavailable:
            raise
        except (BadData, Temporary) as error:
            yield RunStatus(id, error=error)
        guarded.check()


def _run(folder: Medium, id: str, store: Medium) -> Run:
    path = f"runs/{id}/run.json"
    spec = decode(folder.read(path, MAX_SPEC), what=path)
    check_spec(spec, id)
    return Run(id, spec, folder, (store, folder))


def read_status(
    run: Run, store: Disk, index: Index, on_read: Callable[[int], None] = lambda records: None
) -> RunStatus:
    """The status of one run. Raises Temporary when its folders cannot be listed."""
    refused: list[str] = []
    place = home.folder_at(str(run.folder))
    orders = known_orders((store, run.folder), run.id, refused)
    attempts = read_attempts(run.folder, run.id, index, now := time.time(), refused)
    run, named, why = _bound_stages(run, store, orders.sides)
    stages = stage_views(run, named, store, index, orders.set_aside, why=why, tell=on_read)
    why = next((stage.why for stage in stages if stage.why), why)
    first = run.models[""]
    about = {"pipeline": str(run.spec["pipeline"]), "backend": first.backend, "model": first.name}
    about = {name: _cleaned(text) for name, text in about.items()}
    models = tuple((role, _cleaned(one.backend), _cleaned(one.name)) for role, one in run.models.items())
    refused += [reason for stage in stages for reason in stage.refused]
    skipped = tuple(_cleaned(reason) for reason in refused[:MAX_REFUSED])
    if len(refused) > MAX_REFUSED:
        skipped += (count_of(len(refused) - MAX_REFUSED, "more file"),)
    return RunStatus(
        run.id,
        about,
        tuple(stages),
        tuple(attempts),
        orders.cancelled,
        tuple(sorted({path.split("/")[3] for path in orders.active_cancels})),
        orders.forgotten,
        tuple(_cleaned(note) for note in orders.notes),
        _cleaned(why),
        skipped,
        unchanged=index.unchanged(run.id, _content_digest(stages, attempts, orders), now),
        spec=run.spec,
        models=models,
        open_here=Journals(home.journals_of(place)).open_records(run.id),
        local=is_locked(place / run.place),
        next_command=_next_command(run, place, named, stages, orders.sides),
        sides=side_states(named, stages, attempts, orders.sides),
        spent=spent_on(stages, attempts),
    )


def _next_command(
    run: Run,
    place: Path,
    stages: Sequence[tuple[str, Stage | None]],
    views: Sequence[StageView],
    sides: Mapping[str, Side],
) -> str:
    """The command that goes on with a run; "" when nothing is left, or the next stage is not known here."""
    left = [stage for (_, stage), view in zip(stages, views, strict=True) if stage and view.left != 0]
    if not left:
        return ""
    divided = bool(parts(left[0], sides))
    where = ("gpu", "laptop") if divided else (left[0].side,)
    named = {side: [run.models[role] for role in asked_on(left, (side,), sides)] for side in where}
    shown = home.shown(place)
    return "; and ".join(worker_command(run.id, side, shown, named[side], divided=divided) for side in where)


def _content_digest(stages: Sequence[StageView], attempts: Sequence[Attempt], orders: Orders) -> str:
    """A digest of the state that changes while a run is worked on."""
    done = [[one.name, one.shards, one.done, one.failed] for one in stages]
    return digest([done, [[one.name, one.beat_number] for one in attempts], sorted(orders.known)])


def _bound_stages(
    run: Run, store: Medium, sides: Mapping[str, Side]
) -> tuple[Run, list[tuple[str, Stage | None]], str]:
    """The run with its model digests bound, its stages by name, and "".

    When its pipeline cannot be loaded: the run as it is, the names of the stages that have a folder, and the reason.
    """
    try:
        chain = bound(run, pipeline_of(run), sides)
        return chain.run, [(stage.name, stage) for stage in chain.stages], ""
    except HybridError as error:
        pipeline = str(run.spec["pipeline"])
        missing = f"the pipeline '{pipeline}' is not installed here"
        why = error.message if pipeline in installed.names("pipelines") else missing
    found = {one.name for medium in (run.folder, store) for one in medium.entries(run.place) if one.kind == "folder"}
    return run, [(name, None) for name in sorted(found - set(BESIDE_STAGES)) if allowed(name)], why

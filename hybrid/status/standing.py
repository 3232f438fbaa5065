"""How runs stand, as seen from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.canonical import Json, decode, digest
from hybrid.errors import BadData, HybridError, Missed, NotFinished, Temporary
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.chain import bound
from hybrid.execution.index import Index
from hybrid.execution.stage_view import StageView, stage_views
from hybrid.folder.medium import Disk, Medium
from hybrid.folder.names import BESIDE_STAGES, allowed
from hybrid.folder.orders import Orders, known_orders
from hybrid.folder.runs import Run, open_run, run_ids
from hybrid.folder.spec import MAX_SPEC, check_spec
from hybrid.machine.terminal import clean_line, count_of
from hybrid.plugins import installed
from hybrid.protocols import Stage
from hybrid.status.attempts import Attempt, attempts_of
from hybrid.status.away import Away, Fading

LONGEST = 300
MOST_REFUSED = 100


def _sum(said: Iterable[float | None]) -> float | None:
    known = [one for one in said if one is not None]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True)
class RunStanding:
    """A run as seen from here. A sum over its stages is None when one of them is not known.

    `why` says why the number of items is not known, `error` why nothing is. `refused` are the files that were passed
    over, with the reasons. `unchanged` are the seconds for which nothing of it has changed, as seen from here: None
    when it is seen for the first time.
    """

    id: str
    about: dict[str, str] = field(default_factory=dict)  # pipeline, backend, model as the run names them
    stages: tuple[StageView, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    cancelled: bool = False
    cancelled_by: tuple[str, ...] = ()  # the machines whose cancels stand, by the names that they sign with
    forgotten: bool = False  # everywhere: by an order in the folder
    notes: tuple[str, ...] = ()
    why: str = ""
    refused: tuple[str, ...] = ()
    error: HybridError | None = None
    unchanged: float | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[tuple[str, str, str], ...] = ()  # role, backend and name of every model

    def sum(self, name: str) -> int:
        """The sum of one number over the stages."""
        return sum(getattr(stage, name) or 0 for stage in self.stages)

    @property
    def failed(self) -> int:
        """How many items failed, each counted in the stage where it did."""
        return self.sum("own_failures")

    @property
    def total(self) -> int | None:
        known = [stage.total for stage in self.stages]
        return None if None in known or not known else self.sum("total")

    @property
    def done(self) -> bool:
        """Whether every item has a record that counts."""
        return self.error is None and self.total is not None and self.total == self.sum("done")

    @property
    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.done or self.cancelled

    @property
    def exit_code(self) -> int:
        if self.error:
            return self.error.exit_code
        if not self.done:
            return NotFinished.exit_code
        return Missed.exit_code if self.failed else 0

    @property
    def at_work(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.at_work]

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens of all who may be working, as they said; None when nobody did."""
        return _sum(one.tokens_per_second for one in self.at_work)

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Tokens of prompts, in the same way."""
        return _sum(one.prompt_tokens_per_second for one in self.at_work)

    @property
    def items_per_minute(self) -> float | None:
        """Items of all stages, in the same way."""
        pace = _sum(one.items_per_second for one in self.at_work)
        return None if pace is None else 60 * pace

    @property
    def eta_seconds(self) -> float | None:
        """At the pace that those at work told; None when a stage with items left has none, or it is not known."""
        if self.total is None or self.over:
            return None
        times = [self._eta(stage) for stage in self.stages if stage.left]
        return None if None in times else sum(one for one in times if one is not None)

    def _models(self) -> dict[str, Json]:
        return {role: {"backend": backend, "model": name} for role, backend, name in self.models}

    def _eta(self, stage: StageView) -> float | None:
        pace = sum(one.items_per_second or 0 for one in self.at_work if one.stage == stage.name)
        return (stage.left or 0) / pace if pace else None

    def to_json(self) -> dict[str, Json]:
        """One line of `--json`."""
        if self.error:
            error = {"message": clean_line(self.error.message, LONGEST), "hint": clean_line(self.error.hint, LONGEST)}
            return {"run": self.id, "exit_code": self.exit_code, "error": error}
        sums = {name: self.sum(name) for name in ("received", "again", "shards", "copies")}
        names = ("items_per_minute", "prompt_tokens_per_second", "tokens_per_second", "eta_seconds")
        pace = {name: getattr(self, name) for name in names}
        unchanged = None if self.unchanged is None else round(self.unchanged, 1)
        orders: dict[str, Json] = {"cancelled": self.cancelled, "cancelled_by": list(self.cancelled_by)}
        words: dict[str, Json] = {"forgotten": self.forgotten, "notes": list(self.notes)}
        return {
            "run": self.id,
            **self.about,
            **({"models": self._models()} if len(self.models) > 1 else {}),
            "finished": self.done,
            **orders,
            **words,
            "exit_code": self.exit_code,
            "error": None,
            "total": self.total,
            "unknown": self.why,
            "done": self.sum("done"),
            "failed": self.failed,
            **sums,
            **pace,
            "unchanged_seconds": unchanged,
            "settings": self.spec["settings"],
            "stages": [stage.to_json() for stage in self.stages],
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "passed_over": list(self.refused),
        }


def standings(
    folder: Medium,
    store: Disk,
    index: Index,
    name: str | None,
    tell: Callable[[int], None] = lambda records: None,
    hidden: Collection[str] = (),
) -> Iterator[RunStanding]:
    """How each run of the folder stands that is not `hidden`, or only the run called `name`.

    `store` holds what this machine received. `tell` is called with the number of records that are about to be read.
    Raises Temporary when the folder is away, UsageError when there is no such run.
    """
    fading = Fading(folder)
    ids = [one for one in run_ids(fading) if one not in hidden] if name is None else [open_run(fading, name).id]
    for id in ids:
        try:
            yield run_standing(_run(fading, id, store), store, index, tell)
        except Away:
            raise
        except (BadData, Temporary) as error:
            yield RunStanding(id, error=error)
        fading.check()


def _run(folder: Medium, id: str, store: Medium) -> Run:
    path = f"runs/{id}/run.json"
    spec = decode(folder.read(path, MAX_SPEC), what=path)
    check_spec(spec, id)
    return Run(id, spec, folder, (store, folder))


def run_standing(
    run: Run, store: Disk, index: Index, tell: Callable[[int], None] = lambda records: None
) -> RunStanding:
    """How one run stands. Raises Temporary when what it consists of cannot be listed."""
    refused: list[str] = []
    orders = known_orders((store, run.folder), run.id, refused)
    attempts = attempts_of(run.folder, run.id, index, now := time.time(), refused)
    run, named, why = _named(run, store)
    stages = stage_views(run, named, store, index, orders.set_aside, why=why, tell=tell)
    why = next((stage.why for stage in stages if stage.why), why)
    first = run.models[""]
    about = {"pipeline": str(run.spec["pipeline"]), "backend": first.backend, "model": first.name}
    about = {name: clean_line(text, LONGEST) for name, text in about.items()}
    models = tuple(
        (role, clean_line(one.backend, LONGEST), clean_line(one.name, LONGEST)) for role, one in run.models.items()
    )
    refused += [reason for stage in stages for reason in stage.refused]
    told = tuple(clean_line(reason, LONGEST) for reason in refused[:MOST_REFUSED])
    if len(refused) > MOST_REFUSED:
        told += (count_of(len(refused) - MOST_REFUSED, "more file"),)
    return RunStanding(
        run.id,
        about,
        tuple(stages),
        tuple(attempts),
        orders.cancelled,
        tuple(sorted({path.split("/")[3] for path in orders.active_cancels})),
        orders.forgotten,
        tuple(clean_line(note, LONGEST) for note in orders.notes),
        clean_line(why, LONGEST),
        told,
        unchanged=index.unchanged(run.id, _content(stages, attempts, orders), now),
        spec=run.spec,
        models=tuple((role, clean_line(one, LONGEST), clean_line(name, LONGEST)) for role, one, name in models),
    )


def _content(stages: Sequence[StageView], attempts: Sequence[Attempt], orders: Orders) -> str:
    """A digest of what others can change of a run."""
    done = [[one.name, one.shards, one.done, one.failed] for one in stages]
    return digest([done, [[one.name, one.number] for one in attempts], sorted(orders.known)])


def _named(run: Run, store: Medium) -> tuple[Run, list[tuple[str, Stage | None]], str]:
    """The run, bound, and its stages; where its pipeline cannot be had those with a place in the folder, and why."""
    try:
        chain = bound(run, pipeline_of(run))
        return chain.run, [(stage.name, stage) for stage in chain.stages], ""
    except HybridError as error:
        pipeline = str(run.spec["pipeline"])
        missing = f"the pipeline '{pipeline}' is not installed here"
        why = error.message if pipeline in installed.names("pipelines") else missing
    found = {one.name for medium in (run.folder, store) for one in medium.entries(run.place) if one.kind == "folder"}
    return run, [(name, None) for name in sorted(found - set(BESIDE_STAGES)) if allowed(name)], why

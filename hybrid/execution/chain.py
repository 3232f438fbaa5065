"""The stages of a pipeline, bound to a run: a dependent stage makes its items from the outputs of earlier stages.

Those outputs are assembled as outputs.json is, so every machine that has the same records makes the same items.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from hybrid.errors import CannotRun, Waits
from hybrid.execution.assembly import assembled, outputs_of
from hybrid.execution.roles import root_of, stages_of_run
from hybrid.execution.search_records import reached
from hybrid.execution.sides import moved
from hybrid.folder.runs import Run
from hybrid.loops import Loop
from hybrid.machine.database import connect_temporary, no_room
from hybrid.machine.terminal import count_of, has_or_have
from hybrid.protocols import Pipeline, Side, Stage
from hybrid.records import Item, Output
from hybrid.work import Derive, Rounds, Search, Walk, maker_of, with_maker


class Bound:
    """The stages of a run, each with an `items(tasks)` that needs no further argument and may be called repeatedly.

    `run.stage_roles` maps every stage to its role, `run.roots` a dependent stage to the stage that fixes its model
    digest. The outputs of an earlier stage are read when items are first needed, and then stay as they were: bind the
    stages again to see newer records. Without `waits` those of an unfinished stage are read as well, and what has no
    record is a failure of the kind `missing`. Raises CannotRun when `check_order` does.
    """

    def __init__(
        self,
        run: Run,
        stages: Sequence[Stage],
        pipeline: Pipeline | None = None,
        sides: Mapping[str, Side] | None = None,
        *,
        waits: bool = True,
    ) -> None:
        check_order(stages)
        self.pipeline, self.sides, self._waits = pipeline, sides or {}, waits
        stages = moved(stages, self.sides)
        by_name = {stage.name: stage for stage in stages}
        roots = {stage.name: root for stage in stages if (root := root_of(stage, by_name))}
        self.run = replace(run, roots=roots, stage_roles={stage.name: stage.role for stage in stages})
        self.stages = tuple(self._bound(stage) for stage in stages)
        self._finished: dict[str, StoredRecords] = {}
        self._models: list[Mapping[str, Any]] = []

    def models(self, last: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The models that outputs.json names. `last` are those that wrote its records, which are the last stage's.

        A run with several models names those of the earlier stages that were read, too. A model of a `Derive` stage
        answered nothing: it is named only when there is no other.
        """
        if len(self.run.models) == 1:
            return list(last)
        found = [*self._models, *(one for one in last if one not in self._models)]
        return [one for one in found if not is_derived(one)] or found

    def refuse_waiting(self) -> None:
        """Raise Waits while a stage that another depends on is not finished."""
        for stage in self.stages:
            for name in stage.after:
                self._outputs(name, stage)

    def _bound(self, stage: Stage) -> Stage:
        if isinstance(stage.work, Search):
            return self._bound_search(stage, stage.work)
        if not stage.after:
            return stage

        make = maker_of(stage.work)

        @wraps(make)
        def bound_make(*given: Any) -> Any:
            return make(*given, {name: self._outputs(name, stage) for name in stage.after})

        work = with_maker(stage.work, bound_make)
        if isinstance(work, Rounds):
            loop = work.loop

            def bound_loop(*given: Any) -> Loop:
                return loop(*given, {name: self._outputs(name, stage) for name in stage.after})

            work = replace(work, loop=bound_loop)
        return replace(stage, work=work)

    def _bound_search(self, stage: Stage, work: Search) -> Stage:
        """A search that knows what its records lead to."""

        @wraps(work.walk)
        def walk(*given: Any) -> Walk:
            earlier = [{name: self._outputs(name, stage) for name in stage.after}] if stage.after else []
            return work.walk(*given, *earlier)

        bound_stage = replace(stage, work=replace(work, walk=walk))

        def reached_here(tasks: Mapping[str, Any]) -> Iterable[Item]:
            return reached(self.run, bound_stage, tasks)

        return replace(stage, work=replace(work, walk=walk, reached=reached_here))

    def _outputs(self, name: str, reader: Stage) -> Outputs:
        (stage,) = (one for one in self.stages if one.name == name)
        if name not in self._finished:
            with assembled(self.run, stage) as assembly:
                self._models += [one for one in assembly.models if one not in self._models]
                if (missing := assembly.missing) and self._waits:
                    raise Waits(
                        f"{self.run.id}: the stage '{reader.name}' waits for the stage '{name}':"
                        f" {missing:,} of its {count_of(assembly.items, 'item')} {has_or_have(missing)} no record here",
                        hint="`hybrid status` shows who works on it, `hybrid report` what is there; a local run goes "
                        "on with the same command",
                    )
                self._finished[name] = StoredRecords(assembly.lines())
        return Outputs(self.run, self._finished[name], self.run.references() if reader.reads_references else {})


def is_derived(model: Mapping[str, Any]) -> bool:
    """Whether a model, as a shard names it, is that of a `Derive` stage, which asks no model."""
    about = model.get("about")
    return isinstance(about, dict) and about.get("engine") == "derived"


def bound(run: Run, pipeline: Pipeline, sides: Mapping[str, Side] | None = None, *, waits: bool = True) -> Bound:
    """The stages of a pipeline, bound to one of its runs, on the `sides` that the run gives them. Raises CannotRun when
    `check_order` does.
    """
    return Bound(run, stages_of_run(run, pipeline), pipeline, sides, waits=waits)


def check_order(stages: Sequence[Stage]) -> None:
    """Raise CannotRun when a stage depends on one that is not before it, two have one name, or a `Derive` has none."""
    seen: set[str] = set()
    for stage in stages:
        strange = [name for name in stage.after if name not in seen]
        if strange or stage.name in seen or (isinstance(stage.work, Derive) and not stage.after):
            raise CannotRun(
                f"the pipeline's stage '{stage.name}' has no place: it comes after {strange or 'nothing'}",
                hint="a stage comes after others that stand before it, by their names; one that derives always does",
            )
        seen.add(stage.name)


def all_before(stages: Sequence[Stage], stage: Stage) -> list[Stage]:
    """The stages that a stage's items depend on, in order."""
    wanted = set(stage.after)
    for one in reversed(stages):
        if one.name in wanted:
            wanted.update(one.after)
    return [one for one in stages if one.name in wanted]


class StoredRecords:
    """The records of a finished stage, in the order of outputs.json, in a temporary database. Raises Temporary."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._rows = connect_temporary("CREATE TABLE record (number INTEGER PRIMARY KEY, line BLOB);")
        weakref.finalize(self, self._rows.close)
        try:
            self._rows.executemany("INSERT INTO record (line) VALUES (?)", ((line,) for line in lines))
        except sqlite3.Error as error:
            raise no_room(error) from error

    def lines(self) -> Iterator[bytes]:
        for (line,) in self._rows.execute("SELECT line FROM record ORDER BY number"):
            yield line


class Outputs:
    """The outputs of an earlier stage. They can be iterated over repeatedly; one at a time is in memory."""

    def __init__(self, run: Run, records: StoredRecords, references: Mapping[str, Any]) -> None:
        self._run, self._records, self._references = run, records, references

    def __iter__(self) -> Iterator[Output]:
        return outputs_of(self._run, self._records.lines(), self._references)

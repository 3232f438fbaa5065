"""The stages of a pipeline, bound to a run: what comes after others makes its items of what these have brought.

Of the earlier stages only outputs travel, put together as outputs.json is, so every machine that sees the same records
makes the same items.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from hybrid.errors import CannotRun, Temporary, Waits
from hybrid.execution.assembly import assembled, outputs_of
from hybrid.execution.roles import root_of, stages_of_run
from hybrid.folder.runs import Run
from hybrid.machine.terminal import count_of, has_or_have
from hybrid.protocols import Pipeline, Stage
from hybrid.records import Output
from hybrid.work import Derive, maker_of, with_maker


class Bound:
    """The stages of a run. `run` knows the role of each stage, and which stage fixes the digest of its model.

    `items(tasks)` of each may be called as often as one likes. What the earlier stages brought is read when items are
    first needed, and then stays as it was: bind again to see what is new. Raises CannotRun for stages in no order.
    """

    def __init__(self, run: Run, stages: Sequence[Stage], pipeline: Pipeline | None = None) -> None:
        check_order(stages)
        self.pipeline = pipeline
        by_name = {stage.name: stage for stage in stages}
        roots = {stage.name: root for stage in stages if (root := root_of(stage, by_name))}
        self.run = replace(run, roots=roots, stage_roles={stage.name: stage.role for stage in stages})
        self.stages = tuple(self._bound(stage) for stage in stages)
        self._kept: dict[str, Kept] = {}
        self._models: list[Mapping[str, Any]] = []

    def models(self, last: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The models that outputs.json names: those that wrote its records, `last`. Of a run with several models it is
        all that answered in any stage that others come after and that was read so far.
        """
        if len(self.run.models) == 1:
            return list(last)
        found = [*self._models, *(one for one in last if one not in self._models)]
        return [one for one in found if not _is_derived(one)] or found

    def refuse_waiting(self) -> None:
        """Raise Waits while a stage is not finished that others come after."""
        for stage in self.stages:
            for name in stage.after:
                self._outputs(name, stage)

    def _bound(self, stage: Stage) -> Stage:
        if not stage.after:
            return stage

        make = maker_of(stage.work)

        @wraps(make)
        def bound_make(*given: Any) -> Any:
            return make(*given, {name: self._outputs(name, stage) for name in stage.after})

        return replace(stage, work=with_maker(stage.work, bound_make))

    def _outputs(self, name: str, reader: Stage) -> Outputs:
        (stage,) = (one for one in self.stages if one.name == name)
        if name not in self._kept:
            with assembled(self.run, stage) as assembly:
                self._models += [one for one in assembly.models if one not in self._models]
                if missing := assembly.missing:
                    raise Waits(
                        f"{self.run.id}: the stage '{reader.name}' waits for the stage '{name}':"
                        f" {missing:,} of its {count_of(assembly.items, 'item')} {has_or_have(missing)} no record here",
                        hint="`hybrid status` tells who works on it; a local run goes on with the same command",
                    )
                self._kept[name] = Kept(assembly.lines())
        return Outputs(self.run, self._kept[name], self.run.references() if reader.reads_references else {})


def _is_derived(model: Mapping[str, Any]) -> bool:
    """Whether the model of a shard is only named by a stage that asks none."""
    about = model.get("about")
    return isinstance(about, dict) and about.get("engine") == "derived"


def bound(run: Run, pipeline: Pipeline) -> Bound:
    """The stages of a pipeline, bound to one of its runs. Raises CannotRun for stages in no order."""
    return Bound(run, stages_of_run(run, pipeline), pipeline)


def check_order(stages: Sequence[Stage]) -> None:
    """Raise CannotRun when a stage comes after one that is not before it, or two have one name."""
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


class Kept:
    """The records of a finished stage, in the order of outputs.json, in a temporary file that needs no name."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        try:
            self._rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._rows.close)
            self._rows.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            self._rows.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, line BLOB)")
            self._rows.execute("BEGIN")
            self._rows.executemany("INSERT INTO record (line) VALUES (?)", ((line,) for line in lines))
            self._rows.execute("COMMIT")
        except sqlite3.Error as error:
            raise Temporary(f"no room for a temporary database: {error}", hint="free some space") from error

    def lines(self) -> Iterator[bytes]:
        for (line,) in self._rows.execute("SELECT line FROM record ORDER BY number"):
            yield line


class Outputs:
    """The outputs of an earlier stage, as often as they are asked for; memory stays flat."""

    def __init__(self, run: Run, kept: Kept, references: Mapping[str, Any]) -> None:
        self._run, self._kept, self._references = run, kept, references

    def __iter__(self) -> Iterator[Output]:
        return outputs_of(self._run, self._kept.lines(), self._references)

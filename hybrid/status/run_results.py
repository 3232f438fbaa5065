"""What came of the runs of a folder: items, scores, and where the outputs are, each run on one line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hybrid.backends.registry import NO_MODEL
from hybrid.canonical import Json, encode
from hybrid.folder.medium import Medium
from hybrid.grading.scores import Score, scores_of
from hybrid.machine.terminal import clean_line
from hybrid.outputs import BEGINS
from hybrid.status.run_status import RunStatus
from hybrid.status.text import NOTHING

LONGEST_LINE = 1024 * 1024
"""Most bytes that are read of each of the first two lines of an outputs file, which contain the id of its run: a spec
has that size at most.
"""
MAX_LENGTH = 400
"""Most characters of a cell."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run's status, when it was last begun (None when it never was), its outputs (None without) and their scores."""

    status: RunStatus
    begun: datetime | None
    outputs: Path | None
    scores: tuple[Score, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """One line of `--json`."""
        run = self.status
        total = run.total
        return {
            "run": run.id,
            **run.about,
            "done": run.sum("done"),
            "total": total,
            "failed": run.failed,
            "cancelled": run.cancelled,
            "begun": self.begun.isoformat() if self.begun else None,
            "outputs": str(self.outputs) if self.outputs else None,
            "scores": [one.to_json() for one in self.scores],
            "error": run.error.message if run.error else None,
        }

    def cells(self) -> list[str]:
        """The run for people: id, model, items, scores, time of this machine's zone, outputs."""
        run = self.status
        if run.error:
            return [_cell(run.id), _cell(run.error.message), "", "", "", ""]
        when = f"{self.begun.astimezone():%Y-%m-%d %H:%M}" if self.begun else "not begun"
        scores = ", ".join(_score_text(one) for one in self.scores) or ("not graded" if self.outputs else "")
        model = NOTHING if run.about["model"] == NO_MODEL else f"{run.about['backend']}/{run.about['model']}"
        where = str(self.outputs) if self.outputs else "no outputs here"
        return [_cell(one) for one in (run.id, model, _items(run), scores, when, where)]


def result_of(run: RunStatus, folder: Medium, places: Iterable[Path]) -> RunResult:
    """The result of a run whose outputs may be in these `places`, of which the file that was written last counts.

    Raises Temporary when the folder cannot be listed.
    """
    begun = _last_begun(folder, run)
    written = {one: time for one in places if (time := _written(one, run.id)) is not None}
    outputs = max(written, key=written.__getitem__, default=None)
    return RunResult(run, begun, outputs, tuple(scores_of(outputs)) if outputs else ())


def _written(outputs: Path, run: str) -> float | None:
    """When a file with outputs of the run was last written; None for anything else that was put in its place."""
    with suppress(OSError):
        if not outputs.is_file():  # a pipe would be waited for
            return None
        with outputs.open("rb") as file:
            head = file.readline(LONGEST_LINE) + file.readline(LONGEST_LINE)
            if head.startswith(BEGINS) and b'"id":%s' % encode(run) in head:
                return os.fstat(file.fileno()).st_mtime
    return None


def newest_first(results: Iterable[RunResult]) -> list[RunResult]:
    """The results in the order of their last begin; runs that were never begun come first."""
    latest = datetime.max.replace(tzinfo=UTC)
    return sorted(results, key=lambda one: (one.begun or latest, one.status.id), reverse=True)


def _last_begun(folder: Medium, run: RunStatus) -> datetime | None:
    """When the last attempt at the run was begun, by its own clock, as its name says."""
    places = [f"runs/{run.id}/{stage.name}" for stage in run.stages]
    names = {one.name for place in places for one in folder.entries(place)} | {one.name for one in run.attempts}
    return max((time for name in names for time in _time_in(name)), default=None)


def _time_in(attempt: str) -> list[datetime]:
    with suppress(ValueError):
        return [datetime.strptime(attempt.split("-", maxsplit=1)[0], "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC)]
    return []


def _items(run: RunStatus) -> str:
    total = run.total
    items = f"{run.sum('done'):,} done" if total is None else f"{run.sum('done'):,} of {total:,}"
    return items + (f", {run.failed:,} failed" if run.failed else "") + (", cancelled" if run.cancelled else "")


def _score_text(one: Score) -> str:
    interval = f" ({one.interval[0]:.4f} to {one.interval[1]:.4f})" if one.interval else ""
    score = "no score" if one.score is None else f"{one.score:.4f}{interval}"
    return f"{one.grader} {score}{', of other outputs' if one.stale else ''}"


def _cell(text: str) -> str:
    return clean_line(text, MAX_LENGTH)

"""`hybrid run remote --wait`: fetch results as they arrive and grade them, until the run is done.

It reports what arrived, which workers are running and the estimated time, and only when one of these changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybrid import settings
from hybrid.canonical import Json, encode
from hybrid.commands.folder import check, fetched_lines
from hybrid.commands.stdout import STDOUT, copy_to_stdout, spare_path
from hybrid.errors import NotFinished, Temporary
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import note_outputs, opened_run, outputs_path
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run
from hybrid.grading.grade_file import grade_outputs
from hybrid.laptop import remote_runs
from hybrid.machine import home
from hybrid.machine.terminal import clean_line, count_of, is_or_are
from hybrid.outputs import open_outputs
from hybrid.plugins import installed
from hybrid.status.run_status import RunStatus, read_status
from hybrid.status.text import cancelled_by_text, workers_text

MAX_LINE = 1000
REPEAT_SECONDS = 300.0
"""Seconds after which the estimated time is reported again, even if nothing else is new."""
MAX_REMEMBERED = 10_000
"""Most log messages that are remembered in order not to repeat them."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of one fetch, and the status of the run in the folder after it."""

    done: remote_runs.Fetched
    status: RunStatus

    @property
    def workers(self) -> list[str]:
        """The workers that are running; a change is reported at once."""
        return [one.name for one in self.status.at_work]


def follow(run: Run, folder: Path, output: Path | None, every: float, timeout: float | None, as_json: bool) -> None:
    """Fetch until every item is here, and grade whenever something new has arrived. The outputs go to `output`.

    Raises NotFinished at the time-out, and when the run is cancelled. Waits while the folder is unavailable. Ctrl-C
    ends the waiting, not the run.
    """
    outputs = outputs_path(folder, run) if output in (None, STDOUT) else output
    deadline = None if timeout is None else time.monotonic() + timeout
    report = WaitReport(as_json=as_json)
    with without_repeated_messages(), spare_path() as spare:
        while True:
            if snapshot := _snapshot(run, folder, outputs, report, spare if output == STDOUT else None):
                report.tell(snapshot)
                if snapshot.done.done:
                    note_outputs(folder, run, outputs)
                    if output == STDOUT:
                        copy_to_stdout(snapshot.done.outputs)
                    elif not as_json:
                        click.echo(outputs)
                    check(snapshot.done)
                    return
                _refuse_cancelled(snapshot)
            if deadline is not None and time.monotonic() >= deadline:
                raise NotFinished(f"{run.id} is not finished", hint="the same command follows it again")
            time.sleep(every if deadline is None else max(0.0, min(every, deadline - time.monotonic())))


def _snapshot(run: Run, folder: Path, outputs: Path, report: WaitReport, spare: Path | None) -> Snapshot | None:
    store, index = Disk(home.received_of(folder)), home.index_of(folder)

    def status(index: Index) -> RunStatus:
        return read_status(opened_run(folder, run.id), store, index)

    try:
        return Snapshot(remote_runs.fetch(folder, run.id, outputs, spare), with_index(index, status))
    except Temporary as error:
        report.waiting(error.message)
        return None


def _refuse_cancelled(snapshot: Snapshot) -> None:
    """Raise NotFinished for a cancelled run, for which there is nothing to wait."""
    run, done = snapshot.status, snapshot.done
    here = done.items - done.missing
    items = f"{here:,} of {count_of(done.items, 'item')} {is_or_are(here)}"
    if run.cancelled:
        raise NotFinished(
            f"{run.id} was cancelled{cancelled_by_text(run)}: {items} here",
            hint="the same command again undoes the cancel; `hybrid fetch` takes over what still arrives",
        )


class WaitReport:
    """Reports what is new since the last snapshot."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._waiting = self._words = ""
        self._workers: list[str] | None = None
        self._at = time.monotonic()

    def waiting(self, why: str) -> None:
        """The folder is unavailable for the reason `why`."""
        if why != self._waiting:
            click.echo(clean_line(f"waiting: {why}", MAX_LINE), err=True)
        self._waiting = why

    def tell(self, snapshot: Snapshot) -> None:
        """Report what is new."""
        self._waiting = ""
        if self._workers is None or snapshot.done.new.shards:
            _report(snapshot.done, _graded(snapshot.done), as_json=self._as_json)
        words, repeat = workers_text(snapshot.status, names=True), time.monotonic() - self._at >= REPEAT_SECONDS
        if not snapshot.done.done and (snapshot.workers != self._workers or (repeat and words != self._words)):
            self._report_workers(snapshot, words)
            self._words, self._at = words, time.monotonic()
        self._workers = snapshot.workers

    def _report_workers(self, snapshot: Snapshot, words: str) -> None:
        run = snapshot.status
        if self._as_json:
            names: list[Json] = [one.name for one in run.at_work]
            pace = {"tokens_per_second": run.tokens_per_second, "eta_seconds": run.eta_seconds}
            click.echo(encode({"event": "workers", "run": run.id, "at_work": names, **pace}))
        else:
            click.echo(clean_line(words, MAX_LINE), err=True)


@contextmanager
def without_repeated_messages() -> Iterator[None]:
    """Within the block, log no message twice: every snapshot finds the same problems."""
    log, seen = logging.getLogger("hybrid"), set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in seen
        if len(seen) < MAX_REMEMBERED:
            seen.add(text)
        return new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _graded(done: remote_runs.Fetched) -> dict[str, Any] | None:
    """The summary of the pipeline's grader over what has arrived; None without a grader or items."""
    name = done.run.spec["about"].get("grader")
    if done.waits or done.missing == done.items or not isinstance(name, str) or not name:
        return None
    with closing(open_outputs(done.outputs)) as opened:
        judge = settings.build(installed.load("graders", name), called=name)
        return grade_outputs(opened, judge, name, done.outputs.parent / f"grades.{name}.json")


def _report(done: remote_runs.Fetched, summary: dict[str, Any] | None, *, as_json: bool) -> None:
    here = done.items - done.missing
    if as_json:
        event = {"event": "done" if done.done else "fetched", "run": done.run.id, "items": done.items, "here": here}
        click.echo(encode({**event, "outputs": str(done.outputs), "sha256": done.sha256, "summary": summary}))
        return
    for line in fetched_lines(done):
        click.echo(clean_line(line, MAX_LINE), err=True)
    if summary:
        click.echo(_score_line(summary, done=done.done), err=True)


def _score_line(summary: dict[str, Any], *, done: bool) -> str:
    """The score of what has arrived, or why there is none."""
    given = summary["n"] + summary["ungraded"]["count"]
    if not given:
        return f"score: {summary['method']}"
    none = f"score: {summary['method']};" if summary["n"] else "no score yet"
    score = none if summary["score"] is None else f"score {summary['score']:.4f}"
    so_far = "" if done else ", so far: what has not arrived is counted as ungraded"
    return f"{score} over {summary['n']} of {given}{so_far}"

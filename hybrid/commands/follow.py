"""`hybrid run remote --wait`: take over results as they arrive, grade what is there, until the run is done.

What is said: what arrived, who works on it and how long it takes, when one of these changes; nothing while all is as it
was.
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
from hybrid.commands.stdout import STDOUT, to_stdout
from hybrid.errors import NotFinished, Temporary
from hybrid.execution.index import Index, with_index
from hybrid.execution.local import opened_run, outputs_path
from hybrid.folder.medium import Disk
from hybrid.folder.runs import Run
from hybrid.grading.grade_file import grade_outputs
from hybrid.laptop import remote_runs
from hybrid.machine import home
from hybrid.machine.terminal import are, clean_line, some
from hybrid.outputs import open_outputs
from hybrid.plugins import installed
from hybrid.status.standing import RunStanding, run_standing
from hybrid.status.words import by_whom, who

LONGEST = 1000
RHYTHM = 300.0
"""Seconds after which it is said again how long the run takes, when nothing else is new."""
MOST_SAID = 10_000
"""Different messages that are remembered, so as not to be said twice."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look brought: what was taken over, and how the run stands in the folder."""

    done: remote_runs.Fetched
    standing: RunStanding

    @property
    def workers(self) -> list[str]:
        """Who works: told as soon as it changes."""
        return [one.name for one in self.standing.at_work]


def follow(run: Run, folder: Path, output: Path | None, every: float, timeout: float | None, as_json: bool) -> None:
    """Fetch until every item is here, and grade each time that something new is. The outputs go to `output`.

    Raises NotFinished at the timeout, and when the run is cancelled. A folder that is away for a while is waited for.
    Ctrl-C ends it; the run goes on without anybody watching.
    """
    outputs = outputs_path(folder, run) if output in (None, STDOUT) else output
    deadline = None if timeout is None else time.monotonic() + timeout
    said = Said(as_json=as_json)
    with each_message_once():
        while True:
            if look := _look(run, folder, outputs, said):
                said.tell(look)
                if look.done.done:
                    if output == STDOUT:
                        to_stdout(outputs)
                    elif not as_json:
                        click.echo(outputs)
                    check(look.done)
                    return
                _refuse_cancelled(look)
            if deadline is not None and time.monotonic() >= deadline:
                raise NotFinished(f"{run.id} is not finished", hint="the same command follows it again")
            time.sleep(every if deadline is None else max(0.0, min(every, deadline - time.monotonic())))


def _look(run: Run, folder: Path, outputs: Path, said: Said) -> Look | None:
    store, index = Disk(home.received_of(folder)), home.index_of(folder)

    def standing(index: Index) -> RunStanding:
        return run_standing(opened_run(folder, run.id), store, index)

    try:
        return Look(remote_runs.fetch(folder, run.id, outputs), with_index(index, standing))
    except Temporary as error:
        said.waiting(error.message)
        return None


def _refuse_cancelled(look: Look) -> None:
    """Raise NotFinished for a run that nobody is to work on: there is nothing to wait for."""
    run, done = look.standing, look.done
    here = done.items - done.missing
    if run.cancelled:
        raise NotFinished(
            f"{run.id} was cancelled{by_whom(run)}: {here:,} of {some(done.items, 'item')} {are(here)} here",
            hint="the same command again takes the cancel back; `hybrid fetch` takes over what still arrives",
        )


class Said:
    """What was said last, so that nothing is said again."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._waiting = self._who = ""
        self._workers: list[str] | None = None
        self._at = time.monotonic()

    def waiting(self, why: str) -> None:
        """The folder is away."""
        if why != self._waiting:
            click.echo(clean_line(f"waiting: {why}", LONGEST), err=True)
        self._waiting = why

    def tell(self, look: Look) -> None:
        """Say what is new."""
        self._waiting = ""
        if self._workers is None or look.done.new.shards:
            _tell(look.done, _graded(look.done), as_json=self._as_json)
        words, rhythm = who(look.standing, names=True), time.monotonic() - self._at >= RHYTHM
        if not look.done.done and (look.workers != self._workers or (rhythm and words != self._who)):
            self._tell_who(look, words)
            self._who, self._at = words, time.monotonic()
        self._workers = look.workers

    def _tell_who(self, look: Look, words: str) -> None:
        run = look.standing
        if self._as_json:
            names: list[Json] = [one.name for one in run.at_work]
            pace = {"tokens_per_second": run.tokens_per_second, "eta_seconds": run.eta_seconds}
            click.echo(encode({"event": "workers", "run": run.id, "at_work": names, **pace}))
        else:
            click.echo(clean_line(words, LONGEST), err=True)


@contextmanager
def each_message_once() -> Iterator[None]:
    """While the block runs, no log message is said twice: every look finds the same oddities."""
    log, seen = logging.getLogger("hybrid"), set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in seen
        if len(seen) < MOST_SAID:
            seen.add(text)
        return new

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _graded(done: remote_runs.Fetched) -> dict[str, Any] | None:
    """The summary of the grader that the pipeline names, over what is here; None when that is nothing."""
    name = done.run.spec["about"].get("grader")
    if done.waits or done.missing == done.items or not isinstance(name, str) or not name:
        return None
    with closing(open_outputs(done.outputs)) as opened:
        judge = settings.build(installed.load("graders", name), called=name)
        return grade_outputs(opened, judge, name, done.outputs.parent / f"grades.{name}.json")


def _tell(done: remote_runs.Fetched, summary: dict[str, Any] | None, *, as_json: bool) -> None:
    here = done.items - done.missing
    if as_json:
        event = {"event": "done" if done.done else "fetched", "run": done.run.id, "items": done.items, "here": here}
        click.echo(encode({**event, "outputs": str(done.outputs), "sha256": done.sha256, "summary": summary}))
        return
    for line in fetched_lines(done):
        click.echo(clean_line(line, LONGEST), err=True)
    if summary:
        score = "no score yet" if summary["score"] is None else f"score {summary['score']:.4f}"
        so_far = "" if done.done else ", so far: what has not arrived is counted as ungraded"
        click.echo(f"{score} over {summary['n']} of {summary['n'] + summary['ungraded']['count']}{so_far}", err=True)

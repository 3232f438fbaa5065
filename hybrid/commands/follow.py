"""`hybrid run remote --wait`: take over results as they arrive, grade what is there, until the run is done."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from hybrid import plugins, remote, settings
from hybrid.canonical import encode
from hybrid.commands.folder import check, fetched_lines
from hybrid.errors import NotFinished, Temporary
from hybrid.folder.runs import Run
from hybrid.grading import grade_outputs
from hybrid.outputs import open_outputs
from hybrid.terminal import clean_line

LONGEST = 1000


def follow(run: Run, folder: Path, outputs: Path, every: float, timeout: float | None, as_json: bool) -> None:
    """Fetch until every item is here, and grade each time that something new is. Raises NotFinished at the timeout.

    A folder that is away for a while is waited for. Ctrl-C ends it; the run goes on without anybody watching.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    first = True
    while True:
        done = _fetched(run, folder, outputs)
        if done and (first or done.new.shards):
            _tell(done, _graded(done), as_json=as_json)
            first = False
        if done and done.done:
            check(done)
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise NotFinished(f"{run.id} is not finished", hint="the same command follows it again")
        time.sleep(every if deadline is None else max(0.0, min(every, deadline - time.monotonic())))


def _fetched(run: Run, folder: Path, outputs: Path) -> remote.Fetched | None:
    try:
        return remote.fetch(folder, run.id, outputs)
    except Temporary as error:
        click.echo(clean_line(f"waiting: {error.message}", LONGEST), err=True)
        return None


def _graded(done: remote.Fetched) -> dict[str, Any] | None:
    """The summary of the grader that the pipeline names, over what is here; None when it names none or waits."""
    name = done.run.spec["about"].get("grader")
    if done.waits or not isinstance(name, str) or not name:
        return None
    with closing(open_outputs(done.outputs)) as opened:
        judge = settings.build(plugins.load("graders", name))
        return grade_outputs(opened, judge, name, done.outputs.parent / f"grades.{name}.json")


def _tell(done: remote.Fetched, summary: dict[str, Any] | None, *, as_json: bool) -> None:
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
    if done.done:
        click.echo(done.outputs)

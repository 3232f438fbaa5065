"""Failed items, as the command that wrote their outputs tells them at its end: why, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import click

from hybrid.errors import HybridError, Missed
from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.roles import stages_of_run
from hybrid.execution.stage_view import StageView
from hybrid.folder.runs import Run
from hybrid.machine.terminal import clean_line
from hybrid.outputs import open_outputs
from hybrid.status.text import failed_items

SHOWN = 3
MOST = 100_000
"""Outputs that are looked through for reasons."""
LONGEST = 300


def missed(run: Run, views: Sequence[StageView], outputs: Path, again: str) -> Missed:
    """The error of a run with failed items, after lines that say why. `again` is how to ask a model once more."""
    with suppress(HybridError):  # outputs that went to stdout are gone
        for line in reasons(outputs):
            click.echo(line, err=True)
    computed = {stage.name for stage in stages_of_run(run, pipeline_of(run)) if not stage.asks_a_model}
    if all(view.name in computed for view in views if view.own_failures):
        again = "they were computed from the model's answers: other settings or another model may change them"
    return Missed(f"{failed_items(views, run.id)}; the reasons are in {outputs}", hint=again)


def reasons(outputs: Path) -> list[str]:
    """The first different reasons in an outputs file, each with the first question that has it."""
    first: dict[tuple[str, str], str] = {}
    file = open_outputs(outputs)
    try:
        for one in islice(file.records(), MOST):
            if one.error:
                first.setdefault((one.error.kind, one.error.message), one.question)
            if len(first) > SHOWN:
                break
    finally:
        file.close()
    lines = [clean_line(f"{where}: {kind}: {message}", LONGEST) for (kind, message), where in first.items()]
    return lines[:SHOWN] + ["..."] * (len(lines) > SHOWN)

"""The training sets of a reported run's rounds, made again from what its loops published."""

from __future__ import annotations

from hybrid.errors import HybridError
from hybrid.execution.local import opened_run
from hybrid.execution.rounds_again import RoundsAgain, rounds_again
from hybrid.report.sources import RUN_ID, ReportRun


def rounds_of(run: ReportRun) -> RoundsAgain | None:
    """How they are made; None where the run is not at hand, or has no rounds that can be made again."""
    name = str(run.outputs.run.get("id") or "")
    if run.folder is None or not RUN_ID.fullmatch(name):
        return None
    try:
        return rounds_again(opened_run(run.folder, name))
    except HybridError:
        return None

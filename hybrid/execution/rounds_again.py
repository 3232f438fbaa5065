"""Makes the training sets of a run's rounds again, from what the loops of its last stage published."""

from __future__ import annotations

from collections.abc import Callable

from hybrid.execution.capabilities import pipeline_of
from hybrid.execution.roles import stages_of_run
from hybrid.folder.runs import Run
from hybrid.folder.segments import segments_of
from hybrid.metrics import RoundMetrics
from hybrid.plugins.faults import attributed_to, checked
from hybrid.protocols import Replayed, ReplaysRounds

RoundsAgain = Callable[[str, RoundMetrics, str], Replayed]
"""Series, record of a round and its group -> what was trained on. Raises BadData, Temporary, CannotRun."""


def rounds_again(run: Run) -> RoundsAgain | None:
    """How they are made; None for a pipeline whose rounds cannot be made again. Raises HybridError."""
    pipeline = pipeline_of(run)
    if not isinstance(pipeline, ReplaysRounds):
        return None
    tasks, read = run.tasks(), segments_of(run, stages_of_run(run, pipeline)[-1]).read

    def again(series: str, metrics: RoundMetrics, group: str) -> Replayed:
        with attributed_to(pipeline, f"making round {metrics.round} of {series} again"):
            made: Replayed = checked(pipeline.replay(tasks, series, metrics, group, read), Replayed)
            return made

    return again

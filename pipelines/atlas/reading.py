"""Read the data of a run's tasks by their names: generated ones, those of GLUE, and files."""

from __future__ import annotations

from hybrid.errors import BadData, UsageError
from pipelines.atlas import generated, task_files
from pipelines.atlas.partition import LEAST_ROWS
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.task_data import TaskData

DEV = 400
"""Rows that the final models are tested on, of a generated task."""


def read_tasks(settings: AtlasSettings) -> dict[str, TaskData]:
    """The tasks in the order of the settings, by the names that they have in results: that of a file has no folder.

    As many rows are read as the clients of a task may have. Raises UsageError for two tasks of one name, and for one
    that is nowhere; BadData for a file with too few rows for its clients, and for what else is wrong in one; CannotRun.
    """
    found: dict[str, TaskData] = {}
    for place, name in enumerate(settings.tasks):
        clients = len(range(place, settings.clients, len(settings.tasks)))
        task = _read(name, clients * settings.samples, settings)
        if len(task.train) < LEAST_ROWS * clients:
            raise BadData(
                f"{name}: its {clients} clients need {LEAST_ROWS} rows each, and {len(task.train)} are there",
                hint="fewer clients: --set clients=N; rows that stand twice or in the dev set do not count",
            )
        if task.name in found:
            raise UsageError(f"tasks: two are called {task.name}", hint="give one of the files another name")
        found[task.name] = task
    return found


def _read(name: str, rows: int, settings: AtlasSettings) -> TaskData:
    if name in generated.TASKS:
        return generated.read(name, rows, settings.dev or DEV, 0)
    return task_files.read(name, settings.data, settings.columns, train=rows, dev=settings.dev)

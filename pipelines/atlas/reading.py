"""Read the data of a task by its name: a generated one, one of GLUE, or a file."""

from __future__ import annotations

from pipelines.atlas import generated
from pipelines.atlas.settings import AtlasSettings
from pipelines.atlas.task_data import TaskData

DEV = 400
"""Rows that the final models are tested on, of a generated task."""


def read_task(name: str, settings: AtlasSettings) -> TaskData:
    """The rows of a task. Raises HybridError."""
    clients = -(-settings.clients // len(settings.tasks))
    return generated.read(name, clients * settings.samples, settings.dev or DEV, 0)

"""What a run says of its tasks: the version of what makes them, and what a model that never answers earns."""

from __future__ import annotations

from importlib.metadata import version

from hybrid.canonical import Json
from hybrid.tasks.reasoning.scoring import silent_score
from pipelines.sapo.advantages import ONE
from pipelines.sapo.settings import SapoSettings


def about(settings: SapoSettings) -> dict[str, Json]:
    """`reasoning-gym`: its version; `silent`: by task and scoring, in units of a right answer."""
    silent: dict[str, Json] = {
        task: {"strict": silent_score(task, "strict") / ONE, "paper": silent_score(task, "paper") / ONE}
        for task in settings.tasks
    }
    return {"reasoning-gym": version("reasoning-gym"), "silent": silent}

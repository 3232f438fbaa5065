"""What this machine can open for a run that came from the folder: installed pipelines, known backends, allowed models.

A run is text that anybody may have written. It can only name an installed pipeline, typed settings, one of our backends
and a model by name. A path on this machine is opened only when its owner gave it: `--model NAME=PATH`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hybrid import settings
from hybrid.backends.options import by_role, pairs
from hybrid.backends.registry import digest_before_loading
from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.execution.engines import opened
from hybrid.folder.runs import Run
from hybrid.machine.nvidia import gpus
from hybrid.model_files.location import HUB_NAME, PACKAGED
from hybrid.plugins import installed
from hybrid.protocols import Backend, Pipeline


def pipeline_of(run: Run) -> Pipeline:
    """The installed pipeline with the settings that the run was frozen with. Raises CannotRun, UsageError, BadData."""
    name = str(run.spec["pipeline"])
    if name not in installed.names("pipelines"):
        raise CannotRun(
            f"{run.id} is of the pipeline '{name}', which is not installed here",
            hint="install the distribution that has it; `hybrid list` shows what is here",
        )
    name = str(run.spec["pipeline"])
    made: Any = settings.restore(installed.load("pipelines", name), run.spec["settings"], name)
    return cast("Pipeline", made)


class Machine:
    """What this machine can open. `models` maps the names that runs use to places here; `options` are those of the
    backends: `name=value`, or `role=name=value`.
    """

    def __init__(self, models: Mapping[str, str], options: Sequence[str], spool: Path) -> None:
        self._models, self._texts, self._spool = models, options, spool

    def pipeline(self, run: Run) -> Pipeline:
        return pipeline_of(run)

    def digest(self, run: Run, role: str) -> str:
        return digest_before_loading(run.models[role].backend, self._model(run, role), self.options(run, role))

    def options(self, run: Run, role: str) -> dict[str, str]:
        """The options of the backend of a role: `judge=parallel=2` is one of the judge's in a run that has a judge."""
        roles = [name for name in run.models if name]
        return dict(pairs("--backend-option", by_role(self._texts, roles).get(role, [])))

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        backend, options = run.models[role].backend, self.options(run, role)
        return opened(backend, self._model(run, role), options, trains=trains)

    def gauges(self) -> Mapping[str, Json]:
        """Bytes free for the spool, and the first GPU: name, MiB used and in all, per cent busy; what is known."""
        told: dict[str, Json] = {"gpu": gpu()}
        try:
            told["disk_free"] = shutil.disk_usage(self._spool).free
        except OSError:
            told["disk_free"] = None
        return told

    def _model(self, run: Run, role: str) -> str:
        name = run.models[role].name
        if name in self._models:
            return self._models[name]
        if run.models[role].backend == "ollama":
            return name  # a tag on this machine's server, never a path
        if name in PACKAGED or (HUB_NAME.fullmatch(name) and not Path(name).exists()):
            return name
        raise CannotRun(
            f"{run.id} names the model '{name:.200}', which is no name that this machine knows",
            hint="say where it is here: --model NAME=PATH",
        )


def gpu() -> dict[str, Json] | None:
    """The first GPU that nvidia-smi lists; None where there is none."""
    found = next(iter(gpus()), None)
    if found is None:
        return None
    memory: dict[str, Json] = {"memory_used": found.memory_used, "memory_total": found.memory_total}
    return {"name": found.name, **memory, "busy": found.busy, "driver": found.driver}

"""What this machine can open for a run in a shared folder: installed pipelines, known backends and allowed models.

A run is a text file that anybody may have written. It can only name an installed pipeline, typed settings, a known
backend and the name of a model. A path on this machine is opened only if this machine's user gave it: `--model
NAME=PATH`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hybrid import settings
from hybrid.backends.options import by_role, pairs
from hybrid.backends.registry import NAMED_MODELS, SERVED, digest_before_loading, opened, refuse_unknown_role
from hybrid.canonical import Json
from hybrid.errors import CannotRun
from hybrid.execution.roles import embedding_roles
from hybrid.folder.runs import Run
from hybrid.machine.nvidia import own_gpu
from hybrid.model_files.location import HUB_NAME, PACKAGED
from hybrid.plugins import installed
from hybrid.protocols import Backend, Pipeline


def pipeline_of(run: Run) -> Pipeline:
    """The installed pipeline with the settings that the run was frozen with. Raises CannotRun, UsageError, BadData."""
    return frozen_pipeline(run.id, str(run.spec["pipeline"]), run.spec["settings"])


def frozen_pipeline(run: str, name: str, frozen: Mapping[str, Any]) -> Pipeline:
    """The installed pipeline `name` with the settings of the run with this id. Raises as `pipeline_of`."""
    if name not in installed.names("pipelines"):
        raise CannotRun(
            f"{run} is of the pipeline '{name}', which is not installed here",
            hint="install the distribution that provides it; `hybrid list` shows what is installed",
        )
    made: Any = settings.restore(installed.load("pipelines", name), frozen, name)
    return cast("Pipeline", made)


class Machine:
    """Opens pipelines and models for runs, as this machine's user allows.

    `models` says where the models of runs are here, each `name=path`; either may hold a `=`. `options` are backend
    options, each `name=value`, or `role=name=value` for one role. The free space of `spool` is one of the `gauges`.
    `refuse(backend, model, options)` raises CannotRun for a model that is not to be loaded here.
    """

    def __init__(
        self,
        models: Sequence[str],
        options: Sequence[str],
        spool: Path,
        refuse: Callable[[str, str, Mapping[str, str]], None] = lambda backend, model, options: None,
    ) -> None:
        self._refuse = refuse
        self._models, self._texts, self._spool = models, options, spool
        self._asked_for = set[str]()  # names of models of the runs so far

    def unused_models(self) -> list[str]:
        """The `name=path` texts whose name no run so far has a model of."""
        return [text for text in self._models if not any(text.startswith(f"{name}=") for name in self._asked_for)]

    def pipeline(self, run: Run) -> Pipeline:
        return pipeline_of(run)

    def digest(self, run: Run, role: str) -> str:
        backend, embeds = run.models[role].backend, role in embedding_roles(self.pipeline(run))
        return digest_before_loading(backend, self._model(run, role), self.options(run, role), embeds=embeds)

    def options(self, run: Run, role: str) -> dict[str, str]:
        """The options of a role's backend: `judge=parallel=2` sets `parallel` for the role `judge` of a run."""
        roles = [name for name in run.models if name]
        texts = by_role(self._texts, roles)
        refuse_unknown_role(run.models[""].backend, texts.get("", ()), roles)
        return dict(pairs("--backend-option", texts.get(role, [])))

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        backend, options = run.models[role].backend, self.options(run, role)
        embeds, model = role in embedding_roles(self.pipeline(run)), self._model(run, role)
        return opened(backend, model, options, trains=trains, embeds=embeds)

    def gauges(self) -> Mapping[str, Json]:
        """`disk_free`, the bytes free for the spool, and `gpu` as the function `gpu` gives it; None if unknown."""
        gauges: dict[str, Json] = {"gpu": gpu()}
        try:
            gauges["disk_free"] = shutil.disk_usage(self._spool).free
        except OSError:
            gauges["disk_free"] = None
        return gauges

    def _model(self, run: Run, role: str) -> str:
        """Where the model of a role is here. Raises CannotRun for one that is unknown, or not to be loaded here."""
        model = self._located(run, role)
        self._refuse(run.models[role].backend, model, self.options(run, role))
        return model

    def _located(self, run: Run, role: str) -> str:
        name = run.models[role].name
        if path := self._path(name):
            return path
        if run.models[role].backend in SERVED or name in NAMED_MODELS.get(run.models[role].backend, ()):
            return name  # a name on the server that this machine's user chose, never a path
        if name in PACKAGED or (HUB_NAME.fullmatch(name) and not Path(name).exists()):
            return name
        raise CannotRun(
            f"{run.id} names the model '{name:.200}', which this machine does not know",
            hint="give its path on this machine: --model NAME=PATH",
        )

    def _path(self, name: str) -> str:
        """The path given for the model of a run: what follows its name and a `=`; "" when none is given.

        `a=b=c` may be the path of `a` or of `a=b`: of several paths for a name, one that exists counts, else the last.
        """
        self._asked_for.add(name)
        given = [text.removeprefix(f"{name}=") for text in self._models if text.startswith(f"{name}=")]
        return next((path for path in reversed(given) if Path(path).exists()), given[-1] if given else "")


def gpu() -> dict[str, Json] | None:
    """The first GPU that this process may use, as nvidia-smi lists it; None where there is none."""
    found = own_gpu()
    if found is None:
        return None
    memory: dict[str, Json] = {"memory_used": found.memory_used, "memory_total": found.memory_total}
    return {"name": found.name, **memory, "busy": found.busy, "driver": found.driver}

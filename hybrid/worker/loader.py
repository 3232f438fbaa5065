"""The models that a worker loads, and the engines of them that answer the stages of its runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial

from hybrid.backends.registry import NOTHING_TO_LOAD
from hybrid.execution.chain import Bound
from hybrid.execution.engines import Engines, engine_for, ensemble_for, needs_tensors
from hybrid.execution.ensemble import Ensemble
from hybrid.execution.loop_engine import Shelves
from hybrid.execution.stage_session import AnyWork
from hybrid.folder.medium import Medium
from hybrid.folder.runs import Run
from hybrid.folder.spool import Spool
from hybrid.folder.tensors import RunTensors
from hybrid.machine.clock import Clock
from hybrid.machine.terminal import duration
from hybrid.plugins.faults import attributed_to
from hybrid.protocols import Backend, Stage
from hybrid.work import Search
from hybrid.worker.capability import Capabilities, device_of, silent_cpu

LOG = logging.getLogger("hybrid")


def _nothing(text: str) -> None:
    """Tells nothing of a model where there is none."""


class Loader:
    """Loads models as this machine can, one at a time. `sides` are those that the worker executes."""

    def __init__(
        self,
        capabilities: Capabilities,
        spool: Spool,
        folder: Medium,
        clock: Clock,
        attempt: str,
        sides: Collection[str],
    ) -> None:
        self._capabilities, self._spool, self._folder, self._clock = capabilities, spool, folder, clock
        self._attempt, self._sides, self._engines = attempt, sides, Engines()
        self.doing = ""  # what takes long beside answering
        self.run = ""  # the id of the run that a model was last asked for
        self.tell: Callable[[str], None] = LOG.info

    def close(self) -> None:
        """Free the model."""
        self._engines.close()

    def engine(self, work: AnyWork, chain: Bound, here: Collection[str]) -> Backend:
        """What answers a stage; of a search, the models of the roles that are `here`. Raises CannotRun, UsageError."""
        run, stage = work.run, work.stage
        if isinstance(stage.work, Search):
            return self.ensemble(run, stage, here)
        self.run = run.id
        kept = needs_tensors(stage, chain.stages)
        tensors = RunTensors(run.id, self._attempt, self._spool, (self._folder,)) if kept else None
        of_role, load = self._capabilities.options(run, stage.role), partial(self._loaded, run)
        segments = Shelves(run.id, self._spool, self._folder, self._clock.now)
        return engine_for(self._engines, run, stage, work.digest, tensors, load, of_role, segments)

    def ensemble(self, run: Run, stage: Stage, here: Collection[str]) -> Ensemble:
        """The models of a search that are of the roles `here`. Raises CannotRun, UsageError."""
        self.run = run.id
        options = partial(self._capabilities.options, run)
        return ensemble_for(self._engines, run, stage, partial(self._loaded, run), options, here)

    def _loaded(self, run: Run, role: str, *, trains: bool) -> Backend:
        model, began = f"the model {run.models[role].name}", self._clock.now()
        tell = _nothing if run.models[role].backend in NOTHING_TO_LOAD else self.tell
        self.doing = f"loading {model}"
        tell(f"{run.id}: {self.doing}")
        try:
            with attributed_to(f"the backend '{run.models[role].backend}'", self.doing):
                engine = self._capabilities.open(run, role, trains=trains)
        finally:
            self.doing = ""
        on = f" on {device}" if (device := device_of(engine)) else ""
        tell(f"{run.id}: {model} is loaded{on}, in {duration(self._clock.now() - began)}")
        if why := silent_cpu(device, self._sides):
            self.tell(f"{run.id}: {model} computes {why}")
        return engine

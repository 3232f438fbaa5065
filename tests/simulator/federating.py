"""A federation in the simulated folder: the server and the clients of `atlas`, each a series, with a real model."""

from __future__ import annotations

from typing import Any

from hybrid.execution.assembly import assembled
from hybrid.execution.chain import bound
from hybrid.folder.runs import Run
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Backend
from hybrid.settings import build
from pipelines.atlas.pipeline import Atlas
from tests.simulator.meeting import MeetingSimulation
from tests.simulator.simulation import Machine, SimulatedCapabilities

CLIENTS, ROUNDS = 2, 3
SERIES = "flexlora/seed-0"
SMALL = (
    "tasks=polarity", f"clients={CLIENTS}", f"rounds={ROUNDS}", "samples=6", "dev=4", "batch=8", "rank=2",
    "targets=query", "methods=flexlora", "exchange=folder",
)  # fmt: skip


class FederationCapabilities(SimulatedCapabilities):
    """The capabilities of a machine with the model of the federation."""

    def open(self, run: Run, role: str, *, trains: bool) -> Backend:
        assert isinstance(self._simulation, FederationSimulation)
        backend: Backend = self._simulation.backend
        return backend


class FederationSimulation(MeetingSimulation):
    """A history of a federation. All machines use one `backend`, which none of them may close."""

    model = "classifier", "tiny"
    backend: Any

    def federate(self, backend: Any, *settings: str) -> None:
        """Submit the run."""
        self.backend, self.digests = backend, (backend.model.digest,)
        self.pipeline = build(Atlas, [*SMALL, *settings])
        self.submit()

    def capabilities(self, machine: Machine, digest: str) -> SimulatedCapabilities:
        return FederationCapabilities(self, machine, digest)

    def rounds(self) -> dict[str, RoundMetrics]:
        """Question -> the record of a round, of the server and of the clients."""
        chain = bound(self.opened(), self.pipeline)
        with assembled(chain.run, chain.stages[-1]) as assembly:
            return {one.question: RoundMetrics.from_text(str(one.text)) for one in assembly.outputs()}

    def of_server(self) -> list[RoundMetrics]:
        """Those of the server, in their order."""
        found = self.rounds()
        assert len(found) == self.items
        return [found[f"{SERIES}/{number:05d}"] for number in range(ROUNDS)]

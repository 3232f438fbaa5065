"""Federations whose clients meet in the simulated folder: whatever happens to files and machines, no round is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.simulator import NONE, Faults
from tests.simulator.federating import CLIENTS, ROUNDS, FederationSimulation

pytestmark = pytest.mark.slow

HOUR = 3600.0
ITEMS = (1 + CLIENTS) * ROUNDS


@pytest.fixture(scope="module")
def backend() -> Any:
    """The built-in model, which workers that end do not close."""
    pytest.importorskip("torch")
    from hybrid.backends.classifier import ClassifierBackend

    class Shared(ClassifierBackend):
        def close(self) -> None:
            pass

    return Shared("tiny", {"device": "cpu", "checkpoint": "60"})


@pytest.fixture(scope="module")
def undisturbed(backend: Any) -> list[str]:
    """The records of the server where nothing happens."""
    with FederationSimulation(1, NONE, items=ITEMS, workers=2) as simulation:
        simulation.federate(backend)
        simulation.finish()
        return [one.to_text() for one in simulation.of_server()]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_whatever_happens_the_rounds_are_those_of_a_quiet_run(backend: Any, undisturbed: list[str], seed: int) -> None:
    chance = random.Random(seed)
    faults = Faults.random(chance)
    lost = chance.choice((0.0, 0.5))
    with FederationSimulation(
        seed, faults, items=ITEMS, workers=chance.choice((1, 2, 3)), lost_machines=lost
    ) as simulation:
        simulation.federate(backend)
        simulation.live(HOUR, kills=chance.choice((0.01, 0.05)), freezes=chance.choice((0.0, 0.005)))
        simulation.finish()
        assert len(simulation.good()) == simulation.items, "a round was never done"
        assert [one.to_text() for one in simulation.of_server()] == undisturbed


def test_with_a_deadline_every_client_of_a_round_took_part_or_is_named_late(backend: Any) -> None:
    with FederationSimulation(5, Faults.only(F3=0.2, F4=0.05, F12=0.02), items=ITEMS, workers=3) as simulation:
        simulation.federate(backend, "quorum=0.5", "deadline=600")
        simulation.live(HOUR, kills=0.02)
        simulation.finish()
        for one in simulation.of_server():
            assert one.metrics["clients"] + one.metrics["late"] == CLIENTS
            assert one.metrics["clients"] >= 1, "a round with nobody would change nothing"

"""Loops that meet in the simulated folder: late, cut, doubled and lost files, killed and frozen machines."""

from __future__ import annotations

import random

import pytest

from tests.simulator import NONE, Faults
from tests.simulator.meeting import NODES, MeetingSimulation, Node, Publishing, Sharing

HOUR = 3600.0
ROUNDS = 6


@pytest.mark.parametrize("kind", [Publishing, Sharing])
def test_without_faults_all_rounds_are_done_and_nothing_twice(kind: type[Node]) -> None:
    with MeetingSimulation(1, NONE, items=NODES * ROUNDS, workers=2) as simulation:
        simulation.meet(kind)
        simulation.live(HOUR)
        simulation.finish()
        simulation.check_end()
        if kind is Publishing:
            assert len(simulation.published()) == NODES * ROUNDS


@pytest.mark.parametrize("kind", [Publishing, Sharing])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_nodes_meet_in_every_round(seed: int, kind: type[Node]) -> None:
    chance = random.Random(seed)
    faults = Faults.random(chance)
    lost = chance.choice((0.0, 0.5))
    with MeetingSimulation(
        seed, faults, items=NODES * ROUNDS, workers=chance.choice((1, 2, 3)), lost_machines=lost
    ) as simulation:
        simulation.meet(kind)
        simulation.live(2 * HOUR, kills=chance.choice((0.0, 0.02)), freezes=chance.choice((0.0, 0.005)))
        simulation.finish()
        assert len(simulation.good()) == simulation.items, "a round was never done"
        simulation.check_end()

"""Loops that meet in the simulated folder: late, cut, doubled and lost files, killed and frozen machines."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from hybrid.folder.shards import Shard
from tests.simulator import NONE, Faults
from tests.simulator.meeting import NODES, MeetingSimulation, Node, Publishing, Sharing

HOUR = 3600.0
ROUNDS = 12


@pytest.mark.parametrize("kind", [Publishing, Sharing])
def test_without_faults_all_rounds_are_done_and_nothing_twice(kind: type[Node]) -> None:
    with MeetingSimulation(1, NONE, items=NODES * ROUNDS, workers=2) as simulation:
        simulation.meet(kind)
        simulation.live(HOUR)
        simulation.finish()
        simulation.check_end()
        if kind is Publishing:
            assert len(simulation.published()) == NODES * ROUNDS


def test_a_worker_that_comes_later_gets_its_share_of_the_series_that_wait() -> None:
    with MeetingSimulation(1, NONE, items=NODES * 40, workers=2) as simulation:
        simulation.meet(Publishing)
        late = simulation.machines["gpu1"]
        late.due = late.courier_due = simulation.world.time + 900
        simulation.live(899)
        alone = simulation.opened()
        assert writers(alone.shards("rounds", [])) == {"gpu0"}
        assert 0 < len(simulation.published()) < NODES * 40
        simulation.finish()
        simulation.check_end()
        assert writers(simulation.opened().shards("rounds", [])) == {"gpu0", "gpu1"}
        assert len(simulation.published()) == NODES * 40, "no round was computed again"


def writers(shards: Iterable[tuple[str, Shard]]) -> set[str]:
    """The machines that wrote them."""
    return {str(shard.header["attempt"]).partition("-")[0] for _, shard in shards}


@pytest.mark.parametrize(("seed", "kind"), [*((seed, Publishing) for seed in range(4)), (1, Sharing), (2, Sharing)])
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

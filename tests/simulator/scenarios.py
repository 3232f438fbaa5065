"""Scenarios in the simulated world, with the properties that must hold at their end. The seed determines all of it."""

from __future__ import annotations

import random
import re

from hybrid.errors import HybridError
from tests.simulator import NONE, Faults
from tests.simulator.simulation import IN_FLIGHT, Simulation, answer
from tests.simulator.world import SETTLE

HOUR = 3600.0


def simulate(seed: int, **kind: bool) -> Simulation:
    """One random history: participants, faults and their rates all follow from the seed. `kind` is of the pipeline."""
    chance = random.Random(seed)
    faults = NONE if chance.random() < 0.05 else Faults.random(chance)
    simulation = Simulation(
        seed,
        faults,
        items=chance.choice((4, 12, 24) if kind.get("searching") else (3, 12, 24)),
        workers=chance.choice((1, 2, 3)),
        failing=chance.choice((0, 0, 20)),
        lost_machines=chance.choice((0.0, 0.3, 1.0)),
        **kind,
    )
    simulation.submit()
    for _ in range(2):
        simulation.live(HOUR, kills=chance.choice((0, 0.01, 0.05)), freezes=chance.choice((0, 0, 0.005)))
        try_order(simulation, chance.choice(("", "", "cancel", "resume", "retry")))
    return simulation


def try_order(simulation: Simulation, order: str) -> None:
    try:
        if order:
            simulation.order(order)
    except HybridError:
        return


def finish_everything(simulation: Simulation) -> None:
    """After the faults: resume what was cancelled and retry what failed, until every item has arrived."""
    for _ in range(8):
        simulation.finish(hours=2.0)
        if len(simulation.good()) == simulation.items:
            return
        simulation.order("resume")
        simulation.order("retry")


def random_history(seed: int, **kind: bool) -> None:
    """Any fault may occur; then the faults end, and every item must arrive exactly once and be freed in every spool."""
    with simulate(seed, **kind) as simulation:
        finish_everything(simulation)
        assert len(simulation.good()) == simulation.items, (
            f"P4: {simulation.items - len(simulation.good())} items never arrived"
        )
        outputs = simulation.outputs()
        assert set(outputs) == set(simulation.keys), "P1: other items than those of the run"
        assert None not in outputs.values(), "P4: an item has no answer"
        for _ in range(8):
            if not simulation.unreceipted():
                return
            simulation.live(HOUR)
        raise AssertionError(f"P4: {len(simulation.unreceipted())} shards are never freed")


def crashes(seed: int) -> tuple[int, int]:
    """One machine whose processes die and whose mount fails in many ways, without deletions: P5, exact to the item.

    Returns the number of deaths and the number of items that were computed again.
    """
    chance = random.Random(seed)
    possible = ("F2", "F3", "F6", "F11", "F12", "F13", "F14", "F21", "F25")
    rates = {name: 0.05 for name in possible if chance.random() < 0.5}
    with Simulation(seed, Faults(rates), workers=1, lost_machines=0.0) as simulation:
        simulation.submit()
        simulation.live(2 * HOUR, kills=0.05)
        simulation.finish()
        assert len(simulation.good()) == simulation.items
        extra = sum(simulation.calls.values()) - simulation.items
        allowed = sum(machine.extra for machine in simulation.machines.values())
        assert extra <= allowed, f"P5: {extra} items redone, {allowed} were in no file at {simulation.kills} deaths"
        return simulation.kills, extra


def wrong_wall_clocks(seed: int) -> None:
    """Wrong wall clocks change no decision."""
    with _with_walls(seed, perturbed=False) as true, _with_walls(seed, perturbed=True) as wrong:
        assert trace_of(true) == trace_of(wrong), "P7: something depends on the time of day"
        assert true.calls == wrong.calls, "P7: something depends on the time of day"


def _with_walls(seed: int, *, perturbed: bool) -> Simulation:
    simulation = Simulation(seed, Faults.only(F2=0.1, F3=0.05, F4=0.02, F6=0.05, F12=0.01))
    if perturbed:
        simulation.world.perturb_walls()
    simulation.submit()
    simulation.live(HOUR, kills=0.02, freezes=0.01)
    return simulation


def trace_of(simulation: Simulation) -> list[str]:
    """The trace without what depends on the time of day: digests in names, and contents."""
    plain = [[one for one in event if not isinstance(one, tuple)] for event in simulation.world.trace]
    return [re.sub(r"[0-9a-f]{16}", "#", repr(event)) for event in plain]


def two_models(seed: int) -> None:
    """A run without a model digest, and two machines with different model files of one name: results are not mixed."""
    with Simulation(seed, Faults.only(F2=0.1, F3=0.1), items=12, workers=2, digests=("1" * 64, "2" * 64)) as simulation:
        simulation.submit()
        simulation.live(HOUR)
        simulation.finish()
        outputs = simulation.outputs()
        assert set(outputs) == set(simulation.keys_with(simulation.bound())), "two models are mixed"
        assert None not in outputs.values(), "the run is not finished"


def cancelled_run(seed: int) -> None:
    """No item of a cancelled run is computed until the run is resumed."""
    with Simulation(seed, items=96) as simulation:
        simulation.submit()
        simulation.live(300)
        simulation.order("cancel")
        simulation.live(600)
        before = sum(simulation.calls.values())
        assert 0 < before < simulation.items
        simulation.live(2 * HOUR)
        assert sum(simulation.calls.values()) == before, "work on a cancelled run"
        simulation.order("resume")
        simulation.finish()
        assert len(simulation.good()) == simulation.items


def lost_order(seed: int) -> None:
    """An order that was not written, or whose file vanished, is written when it is given again; so is its resume."""
    with Simulation(seed, Faults.only(F13=0.3, F14=0.3, F25=0.3), items=96) as simulation:
        simulation.submit()
        simulation.live(300)
        for kind in ("cancel", "resume"):
            for _ in range(3):
                try_order(simulation, kind)
            simulation.world.calm()
            simulation.world.advance(SETTLE)  # nobody looks meanwhile
            if simulation.world.cloud.tree.find(f"runs/{simulation.run_id}/orders"):
                simulation.world.human.delete(f"runs/{simulation.run_id}/orders")
            simulation.order(kind)
            simulation.live(600)
            before = sum(simulation.calls.values())
            simulation.live(2 * HOUR)
            if kind == "cancel":
                assert 0 < before < simulation.items, "nothing to cancel"
                assert sum(simulation.calls.values()) == before, "work on a cancelled run"
        assert len(simulation.good()) == simulation.items, "the run was not taken up again"


def retried_failures(seed: int) -> None:
    """Only failed items are computed again, and only after a retry."""
    with Simulation(seed, workers=1, failing=40) as simulation:
        simulation.submit()
        simulation.finish(hours=1.0)
        bad = {key for key in simulation.keys if int(key, 16) % 97 < 40}
        assert bad
        assert simulation.good() == set(simulation.keys) - bad
        simulation.order("retry")
        simulation.finish(hours=2.0)
        assert simulation.good() == set(simulation.keys), "a failure is never done again"
        assert {key for key, count in simulation.calls.items() if count > 1} == bad, (
            "other items than the failed were done again"
        )


def items_made_again(seed: int) -> None:
    """A failure replaced by an answer makes new items in later stages, also for a worker that was already running."""
    with Simulation(seed, workers=1, failing=40, chained=True, stays=True) as simulation:
        simulation.submit()
        simulation.live(HOUR)
        assert None in simulation.outputs().values() or "it failed" in simulation.prompts(), "nothing failed"
        for _ in range(3):
            simulation.order("retry")
            simulation.live(HOUR)
        assert simulation.machines["gpu0"].lives == 1
        assert simulation.prompts() == {answer(key) for key in simulation.asked()}
        assert set(simulation.outputs()) == set(simulation.keys)
        assert None not in simulation.outputs().values()


def worker_without_heartbeat(seed: int) -> None:
    """A worker that cannot deliver a heartbeat takes no more work."""
    with Simulation(seed, items=256, workers=1) as simulation:
        simulation.submit()
        simulation.live(120)
        simulation.machines["gpu0"].actor.view.fail("away", 1e9)
        simulation.live(simulation.timeouts.fence + 120)
        before = sum(simulation.calls.values())
        simulation.live(HOUR)
        assert IN_FLIGHT < before < simulation.items
        assert sum(simulation.calls.values()) <= before + IN_FLIGHT, "a worker that nobody hears goes on"

"""Hypothesis searches for sequences of events (faults, orders, deaths) that violate a property of the protocol."""

from __future__ import annotations

import logging
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hybrid.errors import HybridError
from tests.simulator import FAULTS, NONE, Faults
from tests.simulator.scenarios import finish_everything
from tests.simulator.simulation import Simulation

EXAMPLES = int(os.environ.get("HYBRID_TEST_EXAMPLES", "25"))
MACHINES = st.integers(0, 2)


class ProtocolMachine(RuleBasedStateMachine):
    """Each rule is one event; the properties hold after every event."""

    simulation: Simulation | None = None

    @initialize(seed=st.integers(0, 2**32), workers=st.integers(1, 3), failing=st.sampled_from((0, 30)))
    def begin(self, seed: int, workers: int, failing: int) -> None:
        self.simulation = Simulation(seed, items=12, workers=workers, failing=failing)
        self.simulation.submit()

    def name(self, number: int) -> str:
        return f"gpu{number % len(self.it.machines)}"

    @property
    def it(self) -> Simulation:
        assert self.simulation is not None
        return self.simulation

    @rule(faults=st.dictionaries(st.sampled_from(sorted(FAULTS)), st.sampled_from((0.05, 0.3)), max_size=3))
    def faults_begin(self, faults: dict[str, float]) -> None:
        self.it.world.faults = Faults(faults)

    @rule()
    def faults_end(self) -> None:
        self.it.world.faults = NONE

    @rule(minutes=st.integers(1, 90))
    def everybody_works(self, minutes: int) -> None:
        self.it.live(60.0 * minutes)

    @rule(seconds=st.sampled_from((1.0, 600.0, 40_000.0)))
    def nobody_works(self, seconds: float) -> None:
        self.it.world.wait(seconds)

    @rule(number=MACHINES, calls=st.integers(0, 30), machine_too=st.booleans())
    def a_worker_dies(self, number: int, calls: int, machine_too: bool) -> None:
        actor = self.it.machines[self.name(number)].actor
        if not actor.dead:
            actor.kill_after(calls, vm=machine_too)

    @rule(calls=st.integers(0, 20))
    def the_laptop_is_switched_off(self, calls: int) -> None:
        self.it.laptop.kill_after(calls)
        self.it.laptop_step()
        self.it.laptop.start()

    @rule(number=MACHINES, hours=st.integers(1, 6))
    def a_machine_stands_still(self, number: int, hours: int) -> None:
        machine = self.it.machines[self.name(number)]
        if not machine.actor.dead and not machine.actor.view.frozen:
            machine.actor.freeze()
            machine.due = machine.courier_due = self.it.world.time + 3600 * hours

    @rule()
    def the_laptop_fetches(self) -> None:
        self.it.laptop_step()

    @rule(order=st.sampled_from(("cancel", "resume", "retry")))
    def an_order_is_given(self, order: str) -> None:
        try:
            self.it.order(order)
        except HybridError:
            return

    @rule()
    def somebody_meddles(self) -> None:
        self.it.world.human.meddle()

    @precondition(lambda self: self.simulation is not None)
    @invariant()
    def nothing_is_broken(self) -> None:
        self.it.check()

    def teardown(self) -> None:
        if self.simulation is None:
            return
        with self.simulation as simulation:
            finish_everything(simulation)
            assert len(simulation.good()) == simulation.items, (
                f"P4: {simulation.items - len(simulation.good())} items never arrived"
            )
            assert set(simulation.outputs()) == set(simulation.keys), "P1: other items than those of the run"


@pytest.mark.slow
def test_no_order_of_events_breaks_a_promise() -> None:
    logging.disable(logging.CRITICAL)
    quietly = settings(
        max_examples=EXAMPLES, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
    )
    try:
        run_state_machine_as_test(ProtocolMachine, settings=quietly)  # type: ignore[no-untyped-call]
    finally:
        logging.disable(logging.NOTSET)

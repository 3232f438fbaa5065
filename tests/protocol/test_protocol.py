"""The protocol's properties hold under faults: seeded histories of a laptop, workers and people in the simulator.

The seeds are the same on every machine, however fast. HYBRID_TEST_SEEDS=10000 runs that many in the slow parts, and
never fewer than usual: another test takes 20 for many.
HYBRID_TEST_SEED=1234 with -k histories replays one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator

import pytest

from tests.simulator import scenarios
from tests.simulator.simulation import Simulation

QUICK, CHAINS = 48, 8
"""The numbers of seeds that the fast tests run."""
SEEDS, CHAIN_SEEDS = (max(usual, int(os.environ.get("HYBRID_TEST_SEEDS", "0"))) for usual in (560, 128))
"""The seeds below which the slow tests run the rest: six processor seconds and three for each part."""
SEARCHES = 8
WHICH = {"chained": "stages_that_come_after", "searching": "histories_of_searches"}
ONE = os.environ.get("HYBRID_TEST_SEED")
PARTS = 8


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Turn off logging: thousands of faults would be logged."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run_histories(seeds: Iterable[int], **kind: bool) -> None:
    """Run a history for each seed. A failure names the seed and the command that replays it.

    `kind` is of the simulation's pipeline.
    """
    seeds = [int(ONE)] if ONE else list(seeds)
    assert seeds, "no history would be run"
    for seed in seeds:
        try:
            scenarios.random_history(seed, **kind)
        except Exception as error:
            which = next((WHICH[name] for name in kind), "test_histories_keep")
            again = f"HYBRID_TEST_SEED={seed} python -m pytest tests/protocol/test_protocol.py -k {which}"
            raise AssertionError(f"seed {seed}: {error}; replay: {again}") from error


@pytest.mark.parametrize("part", range(PARTS))
def test_histories_keep_every_promise(part: int) -> None:
    run_histories(range(part, QUICK, PARTS))


@pytest.mark.parametrize("part", range(PARTS))
def test_histories_of_stages_that_come_after_others_keep_every_promise(part: int) -> None:
    run_histories(range(part, CHAINS, PARTS), chained=True)


@pytest.mark.parametrize("part", range(PARTS))
def test_histories_of_searches_keep_every_promise(part: int) -> None:
    run_histories(range(part, SEARCHES, PARTS), searching=True)


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_in_place_of_a_failure_makes_new_items(seed: int) -> None:
    scenarios.items_made_again(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_histories_of_such_stages(part: int) -> None:
    run_histories(range(CHAINS + part, CHAIN_SEEDS, PARTS), chained=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_histories_keep_every_promise(part: int) -> None:
    run_histories(range(QUICK + part, SEEDS, PARTS))


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_one_seed_is_one_history(seed: int) -> None:
    with scenarios.simulate(seed) as first, scenarios.simulate(seed) as second:
        assert first.world.trace == second.world.trace
        assert first.calls == second.calls


@pytest.mark.parametrize("seed", range(20, 28))
def test_no_decision_depends_on_the_time_of_day(seed: int) -> None:
    scenarios.wrong_wall_clocks(seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_crash_redoes_what_was_in_no_file_and_nothing_else(part: int) -> None:
    results = [scenarios.crashes(seed) for seed in range(part, 40, 4)]
    kills, redone = (sum(column) for column in zip(*results, strict=True))
    print(f"{kills} kills, {redone} items redone")
    assert kills


@pytest.mark.slow
def test_two_workers_share_a_run_without_talking() -> None:
    calls = items = 0
    for seed in range(8):
        with Simulation(seed, items=96, workers=2) as simulation:
            simulation.submit()
            simulation.finish()
            assert len(simulation.good()) == simulation.items
            calls, items = calls + sum(simulation.calls.values()), items + simulation.items
            assert {path.split("/")[3][:4] for path in simulation.received()} == {"gpu0", "gpu1"}, "one did all of it"
    print(f"{calls} calls for {items} items")
    assert calls < 1.25 * items


@pytest.mark.parametrize("seed", range(12))
def test_nothing_of_two_models_is_mixed(seed: int) -> None:
    scenarios.two_models(seed)


def test_a_cancelled_run_costs_nothing_more_until_it_is_taken_up_again() -> None:
    scenarios.cancelled_run(5)


@pytest.mark.parametrize("seed", range(6))
def test_an_order_that_got_lost_goes_out_when_it_is_given_again(seed: int) -> None:
    scenarios.lost_order(seed)


def test_only_failed_items_are_done_again() -> None:
    scenarios.retried_failures(6)


def test_a_worker_that_cannot_say_that_it_lives_stops_taking_work() -> None:
    scenarios.worker_without_heartbeat(7)

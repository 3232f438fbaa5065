"""The virtual clock: the same for a seed, whatever stops in between, and what each way to go on promises."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.atlas.virtual_clock import (
    DEVICES,
    Arrival,
    Device,
    Mode,
    TimedRound,
    VirtualClock,
    Work,
    training_operations,
)

SEEDS = st.integers(0, 2**32 - 1)
MODES = st.sampled_from(["sync", "deadline", "buffered"])
PLAIN = Device(10**9, 100.0, 10.0, 20.0)
WORK = Work(operations=1000.0, download=40, upload=30)
"""10 + 2 + 3 seconds on PLAIN."""


def clock(mode: Mode, seed: int = 0, clients: int = 6, **how: Any) -> VirtualClock:
    """A clock of mixed devices, some of which drop out often."""
    devices = [replace(DEVICES[name], dropout=0.3) for name in DEVICES] * 2
    return VirtualClock(devices[:clients], mode, seed, **how)


def work_of(clients: int = 6) -> dict[int, Work]:
    return {client: Work(1e12 * (1 + client), 10**6, 10**6) for client in range(clients)}


def rounds(of: VirtualClock, number: int = 5) -> list[TimedRound]:
    return [of.round(work_of()) for _ in range(number)]


def test_a_client_takes_its_links_and_its_speed() -> None:
    found = VirtualClock([PLAIN], "sync", 0).round({0: WORK})
    assert found == TimedRound((Arrival(0, 15.0),), 0.0, 15.0)
    assert training_operations(100, 7) == 2800.0


@settings(deadline=None, max_examples=30)
@given(MODES, SEEDS)
def test_a_run_is_the_same_for_a_seed_and_goes_on_from_its_state(mode: Mode, seed: int) -> None:
    how: dict[str, Any] = {"deadline": 60.0, "buffer": 3}
    whole = rounds(clock(mode, seed, **how))
    first, second = clock(mode, seed, **how), clock(mode, seed, **how)
    parts = rounds(first, 2)
    second.load(json.loads(json.dumps(first.state())))
    assert parts + rounds(second, 3) == whole
    assert rounds(clock(mode, seed + 1, **how)) != whole


@settings(deadline=None, max_examples=30)
@given(MODES, SEEDS)
def test_rounds_follow_each_other_and_always_bring_an_update(mode: Mode, seed: int) -> None:
    found = rounds(clock(mode, seed, deadline=30.0, buffer=2))
    assert found[0].began == 0.0
    for one, following in pairwise(found):
        assert following.began == one.ended > one.began
    for one in found:
        assert one.arrivals
        times = [arrival.seconds for arrival in one.arrivals]
        assert times == sorted(times)
        assert times[-1] <= one.ended
        assert len({arrival.client for arrival in one.arrivals}) == len(times)


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_sync_waits_for_all_and_is_a_deadline_that_never_comes(seed: int) -> None:
    found = rounds(clock("sync", seed))
    assert found == rounds(clock("deadline", seed))
    assert found == rounds(clock("deadline", seed, deadline=1e12))
    assert not any(one.late for one in found)
    reliable = VirtualClock([PLAIN, replace(PLAIN, speed=50.0)], "sync", seed)
    one = reliable.round({0: WORK, 1: WORK})
    assert [arrival.seconds for arrival in one.arrivals] == [15.0, 25.0]
    assert one.ended == 25.0


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(1.0, 400.0))
def test_a_deadline_takes_who_arrived_before_it_or_else_the_first(seed: int, deadline: float) -> None:
    for one in rounds(clock("deadline", seed, deadline=deadline)):
        in_time = [arrival for arrival in one.arrivals if arrival.seconds <= one.began + deadline]
        assert in_time == list(one.arrivals) or len(one.arrivals) == 1
        assert not set(one.late) & {arrival.client for arrival in one.arrivals}
        if in_time:
            assert one.ended <= one.began + deadline
        if one.late and in_time:
            assert one.ended == one.began + deadline


def test_without_failures_a_buffer_of_all_clients_is_sync() -> None:
    devices = [replace(one, dropout=0.0) for one in DEVICES.values()]
    work = work_of(len(devices))
    one, other = VirtualClock(devices, "sync", 3), VirtualClock(devices, "buffered", 3, buffer=len(devices))
    assert [one.round(work) for _ in range(4)] == [other.round(work) for _ in range(4)]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 6), st.integers(0, 3))
def test_a_buffer_goes_on_with_so_many_updates_none_of_them_too_stale(seed: int, buffer: int, most_stale: int) -> None:
    versions = dict.fromkeys(range(6), 0)
    of = clock("buffered", seed, buffer=buffer, most_stale=most_stale)
    for number, one in enumerate(rounds(of, 8)):
        assert len(one.arrivals) == buffer
        for client in one.refreshed:
            versions[client] = number
        for arrival in one.arrivals:
            assert arrival.staleness == number - versions[arrival.client] <= most_stale
            assert arrival.weight == pytest.approx((1 + arrival.staleness) ** -0.5)
            versions[arrival.client] = number + 1


def test_a_fast_client_does_not_wait_for_a_slow_one_whose_update_counts_less() -> None:
    of = VirtualClock([PLAIN, replace(PLAIN, speed=20.0)], "buffered", 0, buffer=1)  # 15 and 55 seconds
    found = [of.round({0: WORK, 1: WORK}) for _ in range(4)]
    assert [[(one.client, one.seconds) for one in each.arrivals] for each in found] == [
        [(0, 15.0)], [(0, 30.0)], [(0, 45.0)], [(1, 55.0)],
    ]  # fmt: skip
    assert found[3].arrivals[0].staleness == 3
    assert found[3].arrivals[0].weight == 0.5


def test_an_update_that_is_too_stale_is_discarded_and_its_client_begins_again() -> None:
    of = VirtualClock([PLAIN, replace(PLAIN, speed=20.0)], "buffered", 0, buffer=1, most_stale=2)
    found = [of.round({0: WORK, 1: WORK}) for _ in range(8)]
    assert [each.refreshed for each in found] == [()] * 3 + [(1,)] + [()] * 3 + [(1,)]  # at 55 and at 110 seconds
    assert [each.arrivals[0].client for each in found] == [0] * 8


def test_when_all_drop_out_they_begin_again() -> None:
    of = VirtualClock([replace(PLAIN, dropout=0.9)] * 2, "sync", 1)
    found = [of.round({0: WORK, 1: WORK}) for _ in range(20)]
    assert sum(one.dropped for one in found) > 20
    assert all(one.arrivals for one in found)


def test_settings_and_states_that_make_no_clock_are_refused() -> None:
    for how in ({"deadline": 0.0}, {"deadline": math.nan}, {"buffer": 0}, {"buffer": 7}, {"most_stale": -1}):
        with pytest.raises(ValueError, match=r"deadline|buffer|staleness"):
            clock("buffered", **how)
    for wrong in ({"speed": 0.0}, {"up": math.inf}, {"memory": 0}, {"dropout": 1.0}, {"spread": -1.0}):
        with pytest.raises(ValueError, match=r"device|dropout"):
            replace(PLAIN, **wrong)
    of = clock("buffered", buffer=3)
    for work in ({}, {6: WORK}, {-1: WORK}):
        with pytest.raises(ValueError, match="work of the clients"):
            of.round(work)
    with pytest.raises(ValueError, match="buffer=3 of 2 clients"):
        of.round({0: WORK, 1: WORK})
    changes: tuple[dict[str, Any], ...] = (
        {"flying": [1]}, {"attempts": {"9": 1}}, {"flying": {"0": [1.0, 2, 3]}}, {"flying": {"0": [1.0, True, 1]}},
        {"flying": {"0": ["nan", True, 0]}}, {"now": 9.0, "flying": {"0": [8.0, True, 0]}},
        {"now": "soon"}, {"now": math.inf}, {"version": -1},
    )  # fmt: skip
    for state in ({}, *({**of.state(), **change} for change in changes)):
        with pytest.raises((ValueError, KeyError, TypeError)):
            of.load(state)


@pytest.mark.parametrize("mode", ["sync", "deadline"])
def test_no_client_computes_between_two_rounds_that_wait_for_all(mode: Mode) -> None:
    state = {**clock(mode).state(), "flying": {"0": [1.0, True, 0]}}
    with pytest.raises(ValueError, match="compute between two rounds"):
        clock(mode).load(state)

"""Advantages of a group, exactly."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sapo.advantages import EPSILON, ONE, advantages, is_dead, mean_reward

REWARDS = st.lists(st.integers(0, ONE), min_size=2, max_size=64)


@pytest.mark.parametrize("reward", [100, 500, 1000, 3333, 10_000, 0])
@pytest.mark.parametrize("answers", [2, 3, 7, 8, 64])
def test_equal_rewards_are_a_dead_group(reward: int, answers: int) -> None:
    """In floating point eight times 0.1 gave each an advantage of -0.745 (spec, finding 6)."""
    assert is_dead([reward] * answers)
    assert advantages([reward] * answers) is None
    assert advantages([reward] * answers, scaled=False) is None


def test_one_answer_alone_is_dead() -> None:
    assert advantages([7]) is None
    assert advantages([]) is None


@given(rewards=REWARDS, scaled=st.booleans())
def test_advantages_are_what_the_definition_says(rewards: list[int], scaled: bool) -> None:
    found = advantages(rewards, scaled=scaled)
    if len(set(rewards)) == 1:
        assert found is None
        return
    assert found is not None
    values = [one / ONE for one in rewards]
    divisor = statistics.stdev(values) + EPSILON if scaled else 1
    assert found == pytest.approx([(one - statistics.fmean(values)) / divisor for one in values], rel=1e-9, abs=1e-12)
    assert abs(math.fsum(found)) < 1e-9 * len(found)
    assert [one > other for one in found for other in found] == [one > other for one in rewards for other in rewards]


@given(rewards=REWARDS, order=st.randoms(use_true_random=False))
def test_an_advantage_does_not_depend_on_the_order_of_the_answers(rewards: list[int], order: object) -> None:
    mixed = list(range(len(rewards)))
    order.shuffle(mixed)  # type: ignore[attr-defined]
    found, other = advantages(rewards), advantages([rewards[place] for place in mixed])
    assert found is None or other == tuple(found[place] for place in mixed)


def test_the_least_difference_gives_an_advantage() -> None:
    found = advantages([0] * 7 + [1])
    assert found is not None
    assert 0 < found[-1] < 2.5


def test_the_mean_is_over_all_answers() -> None:
    assert mean_reward([[ONE, 0], [0, 0]]) == 0.25
    assert mean_reward([]) == 0.0

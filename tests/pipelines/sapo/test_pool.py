"""Which rollouts of others a node takes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sapo.ledger import Entry, Group, Ledger, Used
from pipelines.sapo.ledger import digest_of as digest_of_set
from pipelines.sapo.pool import Candidate, Pool, choose, digest_of
from pipelines.sapo.rollouts import Answer, Rollout

CHOICES = "uniform-nonzero", "uniform", "best-total", "first", "fixed-positions"


def rollout(node: int, round: int = 0, slot: int = 0, text: str = "a") -> Rollout:
    return Rollout("c" * 64, node, round, slot, "bf", 1, (Answer(text, True), Answer("b", True)))


def pool(count: int, rewards: tuple[int, ...] = (0, 10_000)) -> list[Candidate]:
    return [Candidate(rollout(1 + place // 4, slot=place % 4), rewards, 0) for place in range(count)]


@given(
    count=st.integers(0, 20),
    wanted=st.integers(0, 12),
    choice=st.sampled_from(CHOICES),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
def test_a_choice_depends_on_the_pool_and_the_seed_alone(
    count: int, wanted: int, choice: str, seed: int, order: object
) -> None:
    here = pool(count)
    mixed = list(here)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    found = choose(here, wanted, choice, seed, node=3, round=5)  # type: ignore[arg-type]
    assert found == choose(mixed, wanted, choice, seed, node=3, round=5)  # type: ignore[arg-type]
    assert len(found) == min(wanted, count) == len({one.rollout.id for one in found})
    assert digest_of(here) == digest_of(mixed)


def test_the_paper_discards_dead_groups_and_then_chooses_uniformly() -> None:
    here = pool(8) + [Candidate(rollout(9, slot=slot), (10_000, 10_000), 0) for slot in range(8)]
    counts = Counter(
        one.rollout.id for round in range(800) for one in choose(here, 2, "uniform-nonzero", 0, round=round)
    )
    assert set(counts) == {one.rollout.id for one in here[:8]}
    assert all(150 < count < 250 for count in counts.values())  # of 1,600 draws an eighth each


def test_every_pair_is_as_likely() -> None:
    here = pool(5)
    counts = Counter(
        frozenset(one.rollout.slot + 4 * one.rollout.node for one in choose(here, 2, "uniform", 0, round=round))
        for round in range(1000)
    )
    assert len(counts) == 10
    assert all(60 < count < 140 for count in counts.values())


def test_nodes_and_rounds_choose_otherwise() -> None:
    here = pool(20)
    found = {tuple(one.rollout.id for one in choose(here, 4, "uniform", 0, node=node, round=5)) for node in range(8)}
    assert len(found) == 8


def test_a_rollout_more_in_the_pool_changes_one_choice_at_most() -> None:
    here = pool(20)
    before = {one.rollout.id for one in choose(here[:19], 4, "uniform", 0)}
    assert len(before & {one.rollout.id for one in choose(here, 4, "uniform", 0)}) >= 3


def test_best_total_prefers_groups_that_are_right_throughout() -> None:
    here = [*pool(4), Candidate(rollout(5), (10_000, 10_000), 0), Candidate(rollout(6), (0, 0), 0)]
    assert [one.rollout.node for one in choose(here, 2, "best-total", 0)] == [5, 1]
    assert len(choose(here, 9, "best-total", 0)) == 5


def test_first_takes_the_youngest_of_the_lowest_nodes_dead_or_not() -> None:
    here = [Candidate(rollout(1), (0, 0), 2), Candidate(rollout(7), (0, 0), 0), Candidate(rollout(2), (0, 0), 0)]
    assert [one.rollout.node for one in choose(here, 2, "first", 0)] == [2, 7]


def test_fixed_positions_are_the_same_in_every_round() -> None:
    places = []
    for round in range(3):
        here = [Candidate(rollout(1 + place // 4, round, place % 4, str(round)), (0, 0), 0) for place in range(20)]
        places.append(
            [(one.rollout.node, one.rollout.slot) for one in choose(here, 4, "fixed-positions", 0, round=round)]
        )
    assert places[0] == places[1] == places[2]


def test_what_was_taken_is_not_chosen_again() -> None:
    here = pool(6)
    taken = {one.rollout.id for one in choose(here, 4, "uniform", 0)}
    rest = choose(here, 4, "uniform", 0, taken)
    assert len(rest) == 2
    assert not taken & {one.rollout.id for one in rest}


def scored(one: Rollout) -> tuple[int, ...]:
    return (0, 10_000)


def test_a_pool_holds_what_is_not_too_old_nor_of_the_future() -> None:
    held = Pool(0, max_age=2, ahead=5)
    assert [one.kind for one in held.add([rollout(1, round) for round in (7, 8, 10, 15, 16)], 10)] == [
        "too-old", "from-the-future",
    ]  # fmt: skip
    assert [one.rollout.round for one in sorted(held.candidates(10, scored), key=lambda one: one.age)] == [10, 8]
    assert [one.age for one in held.candidates(15, scored)] == [0]
    assert held.arrived_from(15) == {1}


def test_repeated_and_own_rollouts_are_passed_over() -> None:
    held = Pool(0, max_age=0)
    assert not held.add([rollout(1), rollout(0), rollout(1)], 0)
    assert not held.add([rollout(1)], 0)
    assert len(held.candidates(0, scored)) == 1


def test_of_two_writers_under_one_number_the_first_that_arrives_counts() -> None:
    held, ledger = Pool(0, max_age=3), Ledger(0, 3)
    assert [one.kind for one in held.add([rollout(1), rollout(1, text="other")], 0)] == ["second-writer"]
    (found,) = held.candidates(0, scored, ledger)
    assert found.rollout.answers[0].text == "a"
    ledger.add(entry(0, [found.rollout]))
    again = Pool(0, max_age=3)  # another process, to which the other one comes first
    again.add([rollout(1, text="other")], 1)
    assert not again.candidates(1, scored, ledger)


def entry(round: int, foreign: list[Rollout], node: int = 0) -> Entry:
    used = tuple(Used(one.node, one.round, one.slot, one.id, (0, 1)) for one in foreign)
    return Entry(node, round, used, 4, 7, 9, "p" * 64, "s" * 64, {"another-G": 2})


def test_a_ledger_refuses_to_train_a_rollout_twice() -> None:
    ledger = Ledger(0, 2)
    ledger.add(entry(0, [rollout(1), rollout(2)]))
    for wrong in (entry(1, [rollout(1)]), entry(0, []), entry(1, [], node=1), entry(1, [rollout(3), rollout(3)])):
        with pytest.raises(ValueError, match="round"):
            ledger.add(wrong)
    ledger.add(entry(1, [rollout(1, 1)]))
    assert ledger.has(rollout(1))


def test_a_ledger_forgets_what_is_too_old_to_come_again() -> None:
    ledger = Ledger(0, 2)
    for round in range(100):
        ledger.add(entry(round, [rollout(1, round), rollout(2, round)]))
    assert len(ledger.to_json()["taken"]) == 6  # type: ignore[index,call-overload,arg-type]
    again = Ledger.from_json(ledger.to_json())
    assert again.to_json() == ledger.to_json()
    assert again.has(rollout(1, 98))


def test_an_entry_comes_back_as_it_was() -> None:
    made = entry(3, [rollout(1, 2), rollout(0, 3)])
    assert Entry.from_json(made.to_json(), 0, 3) == made
    assert made.ages == [1]


def test_the_digest_of_a_training_set_depends_on_all_of_it() -> None:
    one, other = Group(rollout(1), (0, 1), (-1.0, 1.0), own=False), Group(rollout(2), (1, 1), None, own=False)
    sets = [[one, other], [other, one], [one], [one._replace(own=True), other], [one._replace(rewards=(0, 2)), other],
            [one._replace(advantages=(-1.0, 1.0000000000000002)), other]]  # fmt: skip
    assert len({digest_of_set(groups) for groups in sets}) == len(sets)

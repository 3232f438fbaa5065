"""Seeds and draws by counter."""

from __future__ import annotations

from collections import Counter

from pipelines.sapo.streams import HELD_OUT, INDICES, WARM_UP, held_out, key, question, sampling_seed, seed_of, warm_up

TASKS = ("a", "b", "c")


def test_eight_nodes_share_no_question_in_ten_thousand_draws() -> None:
    """Neighbouring seeds of nodes gave the same questions, one later (spec, finding 8)."""
    drawn = [
        question(TASKS, 42 + seed, node, round, 0) for seed in range(2) for node in range(8) for round in range(625)
    ]
    assert len({index for _, index in drawn}) == len(drawn) == 10_000


def test_neighbours_do_not_draw_the_same_tasks_one_later() -> None:
    drawn = [[question(TASKS, 0, node, round, 0)[0] for round in range(300)] for node in (0, 1)]
    same = sum(one == other for one, other in zip(drawn[0][1:], drawn[1], strict=False))
    assert 60 < same < 140  # a third


def test_tasks_are_drawn_uniformly_with_replacement() -> None:
    counts = Counter(
        question(TASKS, 1, node, round, slot)[0] for node in range(8) for round in range(100) for slot in (0, 1, 2)
    )
    assert all(720 < counts[task] < 880 for task in TASKS)


def test_what_is_held_out_is_never_trained_on() -> None:
    assert all(question(TASKS, 0, 0, round, slot)[1] < HELD_OUT for round in range(100) for slot in range(8))
    assert all(
        HELD_OUT <= held_out("a", number) < WARM_UP <= warm_up("a", 0, number) < INDICES for number in range(100)
    )
    assert len({held_out(task, number) for task in TASKS for number in range(1000)}) == 3000


def test_streams_of_other_purposes_and_places_are_others() -> None:
    keys = [key("a", 1, 23), key("a", 12, 3), key("b", 1, 23), key("a", "1", 23), key("a", 1), key("a", 1, 2, 3)]
    assert len(set(keys)) == len(keys)
    assert seed_of("a", 1) == key("a", 1) % 2**31


def test_the_keys_stay_the_same_from_version_to_version() -> None:
    assert key("question", 0, 3, 412, 1) == 4479624105683061660
    assert len({sampling_seed(0, 0, 0, slot, sample) for slot in range(8) for sample in range(8)}) == 64

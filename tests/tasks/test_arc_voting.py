"""Known answers of both voting rules, the flaws of the published one among them."""

from __future__ import annotations

import itertools
import random

import pytest

from hybrid.tasks.arc.grid import Grid
from hybrid.tasks.arc.views import ORDER
from hybrid.tasks.arc.voting import METHODS, Vote, count, flat, seal
from tests.support import seal_reference
from tests.support.hash_seeds import printed_by_hash_seed

A: Grid = ((1, 1), (1, 1))
B: Grid = ((2, 2), (2, 2))
C: Grid = ((3, 3), (3, 3))
FIVE = ("transpose", "flip0", "flip1", "rot90", "rot180")


def votes(*groups: tuple[int, Grid, str]) -> list[Vote]:
    return [Vote(grid, transform) for number, grid, transform in groups for _ in range(number)]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_without_votes_there_are_no_attempts(method: str) -> None:
    assert METHODS[method]([]) == ()


def test_the_two_most_voted_grids_are_the_attempts() -> None:
    assert flat(votes((1, A, "identity"), (3, B, "identity"), (2, C, "identity"))) == (B, C)


def test_a_wrong_turned_view_is_outvoted() -> None:
    assert flat(votes((3, A, "identity"), (1, B, "transpose"))) == (A, B)


def test_of_a_tie_the_grid_that_more_transforms_answered_is_first() -> None:
    assert flat(votes((2, A, "identity"), (1, B, "flip0"), (1, B, "rot90"))) == (B, A)


def test_of_a_further_tie_the_grid_with_more_identity_votes_is_first() -> None:
    tied = votes((1, A, "flip0"), (1, A, "rot90"), (1, B, "identity"), (1, B, "rot90"))
    assert flat(tied) == (B, A)


def test_of_the_last_tie_the_earlier_vote_is_first() -> None:
    assert flat(votes((1, B, "identity"), (1, A, "identity"))) == (B, A)


def test_one_grid_gives_one_attempt() -> None:
    assert flat(votes((4, A, "identity"))) == (A,)


def test_the_second_attempt_is_another_grid_whenever_one_was_answered() -> None:
    for grids in itertools.product((A, B, C), repeat=4):
        attempts = flat([Vote(grid, "identity") for grid in grids])
        assert len(set(attempts)) == len(attempts) == min(2, len(set(grids)))


def test_the_count_names_the_transforms_of_a_grid() -> None:
    best = count(votes((1, A, "identity"), (1, A, "flip0"), (1, B, "flip1")))[0]
    assert (best.grid, best.transforms) == (A, ("identity", "flip0"))


def test_published_five_single_views_beat_six_identity_votes() -> None:
    cast = votes((6, A, "identity"), *((1, B, name) for name in FIVE))
    assert seal(cast)[0] == B  # each single view names its grid three times
    assert flat(cast) == (A, B)


def test_published_a_wrong_single_view_can_be_first() -> None:
    wrong: list[Grid] = [((n,) * 2,) * 2 for n in (5, 6, 7, 8, 9)]
    turned = [(1, grid, transform) for grid, transform in zip(wrong, FIVE, strict=True)]
    cast = votes((3, A, "identity"), (2, B, "identity"), (1, C, "identity"), *turned)
    assert seal(cast)[0] not in (A, B, C)
    assert flat(cast) == (A, B)


def test_published_an_attempt_can_be_a_grid_that_nobody_answered() -> None:
    cast = votes((1, C, "identity"), (1, ((1, 1), (2, 2)), "transpose"))
    answered = {vote.grid for vote in cast}
    assert seal(cast) == (C, ((1, 1), (3, 3)))
    assert ((1, 1), (3, 3)) not in answered
    assert set(flat(cast)) == answered


def test_published_both_attempts_can_be_the_same_although_others_were_answered() -> None:
    cast = votes((1, A, "identity"), (1, B, "identity"))
    assert seal(cast) == (A, A)
    assert flat(cast) == (A, B)


def test_published_unanimous_views_give_the_same_grid_twice() -> None:
    assert seal(votes((2, A, "identity"), (1, A, "flip0"))) == (A, A)


def test_published_rule_has_no_group_for_rot270() -> None:
    cast = votes((2, A, "identity"), (5, B, "rot270"))
    assert seal(cast)[0] == A  # two identity votes make a group of their own, five of rot270 make none
    assert flat(cast) == (B, A)


def test_published_a_tie_for_the_second_place_goes_to_the_grid_with_more_identity_votes() -> None:
    order = (B, A, B, C, B)
    cast = votes((1, C, "identity"), (1, B, "identity"), *((1, grid, "rot90") for grid in order))
    assert seal(cast) == (C, B)
    cast = votes((1, A, "identity"), (1, B, "identity"), (1, B, "flip0"), (1, C, "flip0"), (1, A, "flip0"))
    assert seal(cast) == (A, C)  # B and C tie, and B has not more identity votes than the grid in the third place


def ballots(draws: random.Random) -> list[Vote]:
    """Few different grids of one or two shapes and few colours, so that counts, shapes and rows tie often."""
    shapes = [(draws.randint(1, 4), draws.randint(1, 4)) for _ in range(draws.randint(1, 2))]
    colours = draws.choice([2, 4, 10])
    grids = [
        tuple(tuple(draws.randrange(colours) for _ in range(width)) for _ in range(height))
        for height, width in (draws.choice(shapes) for _ in range(draws.randint(1, 5)))
    ]
    cast = [Vote(draws.choice(grids), draws.choice(list(ORDER))) for _ in range(draws.randint(0, 23))]
    return sorted(cast, key=lambda vote: ORDER[vote.transform])


def test_published_ties_or_not_it_is_the_originals_result() -> None:
    draws = random.Random(0)
    for _ in range(300):
        cast = ballots(draws)
        assert seal(cast) == seal_reference.voted([(vote.grid, vote.transform) for vote in cast]), cast


TALL: Grid = ((4, 1), (1, 1), (1, 2), (0, 2))
WIDE: Grid = ((4, 1, 1, 0), (1, 1, 2, 2))


def test_published_ties_of_grids_and_shapes_are_broken_by_the_order_of_pythons_sets() -> None:
    """What the original's own code gives for these answers."""
    assert seal(votes((1, TALL, "identity"), (1, WIDE, "identity"))) == (TALL, WIDE)


def test_published_ties_are_broken_alike_in_every_process() -> None:
    code = (
        "from hybrid.tasks.arc.voting import Vote, seal; import random; r = random.Random(3)\n"
        f"for _ in range(50): print(seal([Vote(r.choice({[TALL, WIDE, A, B, C]}), n) for n in {list(ORDER) * 2}]))"
    )
    printed = printed_by_hash_seed(code, "0", "1")
    assert len(printed) == 1
    assert "((4, 1)" in printed.pop()

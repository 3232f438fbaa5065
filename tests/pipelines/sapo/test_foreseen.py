"""What a plan foretells of a swarm."""

from __future__ import annotations

import pytest

from pipelines.sapo.foreseen import foreseen_rounds
from pipelines.sapo.pipeline import Sapo


@pytest.mark.parametrize(
    ("arm", "asks", "trains"), [("2-2", 2, 4), ("4-0", 4, 4), ("filter-only-2-2", 2, 4), ("equal-compute-2-2", 2, 2)]
)
def test_a_control_asks_and_trains_on_what_it_is_a_control_by(arm: str, asks: int, trains: int) -> None:
    how = Sapo(nodes=3, rounds=5, group=4, updates=1, eval_every=0)
    found, one = (foreseen_rounds(how, {"one": {"arm": name}}) for name in (arm, "1-0"))
    assert sum(part.times for part in found.asked) == pytest.approx(asks * 3 * 5 * 4, abs=len(found.asked))
    assert found.trained_tokens == pytest.approx(trains * one.trained_tokens, abs=trains)

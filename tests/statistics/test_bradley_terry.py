"""Strengths from verdicts on pairs: known values, a judge who likes what is first, and pairs that tell most."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")


from hybrid.errors import BadData, UsageError
from hybrid.statistics.bradley_terry import PRIOR, PairedResults, Verdict, next_pairs, standings, strengths


def judged(true: dict[str, float], pairs: list[tuple[str, str]], order: float, seed: int) -> list[Verdict]:
    draws = random.Random(seed)
    return [
        Verdict(one, other, float(draws.random() < 1 / (1 + math.exp(true[other] - true[one] - order))))
        for one, other in pairs
    ]


def test_many_verdicts_give_back_the_strengths_they_were_drawn_from() -> None:
    true = {"a": 1.0, "b": 0.3, "c": -0.3, "d": -1.0}
    pairs = [(one, other) for one in true for other in true if one != other] * 60
    found = strengths(list(true), judged(true, pairs, 1.0, 3))  # a judge who likes what comes first
    for id, value in true.items():
        assert found[id].log_odds.low < value < found[id].log_odds.high
        assert found[id].log_odds.value == pytest.approx(value, abs=0.25)
        assert found[id].verdicts == 360


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draws, inside = random.Random(5), 0
    for trial in range(60):
        true = {name: draws.gauss(0, PRIOR) for name in "abcdef"}
        pairs = next_pairs(list(true), [], 16)
        found = strengths(list(true), judged(true, pairs, 0.5, trial))
        mean = sum(true.values()) / len(true)
        inside += sum(found[id].log_odds.low <= true[id] - mean <= found[id].log_odds.high for id in true)
    assert 0.90 <= inside / 360 <= 0.99


def test_without_verdicts_all_are_average_and_one_verdict_is_no_certainty() -> None:
    none = strengths(["a", "b"], [])
    assert none["a"] == none["b"]
    assert none["a"].chance.value == 0.5
    one = strengths(["a", "b", "c"], [Verdict("a", "b", 1.0), Verdict("b", "a", 0.0)])
    assert one["a"].chance.value > one["c"].chance.value > one["b"].chance.value
    assert one["a"].chance.low < 0.5 < one["a"].chance.high
    always = strengths(["a", "b"], [Verdict("a", "b", 1.0)] * 1000)
    assert 0.9 < always["a"].chance.value < 1
    assert strengths(["a"], [])["a"].chance.value == 0.5
    assert strengths([], []) == {}


def test_a_tie_and_a_contradiction_leave_two_texts_equal() -> None:
    tie = strengths(["a", "b"], [Verdict("a", "b", 0.5), Verdict("b", "a", 0.5)])
    first = strengths(["a", "b"], [Verdict("a", "b", 1.0), Verdict("b", "a", 1.0)])
    assert tie["a"].log_odds.value == tie["b"].log_odds.value == 0
    assert first["a"].log_odds.value == first["b"].log_odds.value == 0


@settings(deadline=None)
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_the_order_of_texts_and_verdicts_changes_nothing(n: int, seed: int) -> None:
    draws = random.Random(seed)
    ids = [f"t{place}" for place in range(n)]
    said = [Verdict(*draws.sample(ids, 2), draws.choice([0.0, 0.5, 1.0])) for _ in range(draws.randrange(12))]
    mixed = draws.sample(ids, n), draws.sample(said, len(said))
    assert strengths(*mixed) == strengths(ids, said)
    assert next_pairs(*mixed, 10) == next_pairs(ids, said, 10)


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 30))
def test_pairs_are_asked_in_both_orders_within_the_budget_and_never_again(n: int, calls: int) -> None:
    ids = [f"t{place}" for place in range(n)]
    pairs = next_pairs(ids, [], calls)
    assert len(pairs) <= calls
    assert len(set(pairs)) == len(pairs)
    assert all((other, one) in pairs for one, other in pairs)
    assert len(pairs) == 2 * min(calls // 2, n * (n - 1) // 2)
    more = next_pairs(ids, [Verdict(*pair, 1.0) for pair in pairs], calls)
    assert not set(more) & set(pairs)


def test_the_first_pairs_reach_every_text_and_later_ones_compare_equals() -> None:
    pairs = next_pairs(list("abcdefgh"), [], 8)
    assert {text for pair in pairs for text in pair} == set("abcdefgh")
    clear = [Verdict(one, other, 1.0) for one in "ab" for other in "cd"] * 6
    assert {frozenset(pair) for pair in next_pairs(list("abcd"), clear, 4)} == {frozenset("ab"), frozenset("cd")}


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(BadData, match="'z', which is not compared"):
        strengths(["a", "b"], [Verdict("a", "z", 1.0)])
    for first, second, won in (("a", "a", 1.0), ("a", "b", 0.7), ("a", "b", float("nan"))):
        with pytest.raises(BadData, match="no verdict"):
            Verdict(first, second, won)
    with pytest.raises(UsageError, match="the same id"):
        strengths(["a", "a"], [])


# --- arms that meet on many questions


def met(true: dict[str, float], tasks: int, size: int, spread: float, seed: int) -> PairedResults:
    """Results of every pair on `size` questions of each task; in a task each arm is better or worse by a draw."""
    draws, results = random.Random(seed), PairedResults(list(true))
    for task in range(tasks):
        here = {name: value + draws.gauss(0, spread) for name, value in true.items()}
        for _ in range(size):
            for one, other in results.pairs:
                chance = 1 / (1 + math.exp(here[other] - here[one]))
                results.add(str(task), one, other, float(draws.random() < chance))
    return results


def test_the_strengths_of_arms_are_the_maximum_that_scipy_finds() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    results = met({"a": 0.8, "b": 0.1, "c": -0.9}, 60, 1, 0.0, 3)

    def posterior(values: Sequence[float]) -> float:
        place = dict(zip(results.ids, values, strict=True))
        likely = sum(value**2 for value in values) / (2 * PRIOR**2)
        for (one, other), mean in zip(results.pairs, results.means, strict=True):
            gap = place[one] - place[other]
            likely += mean.total * math.log1p(math.exp(-gap)) + (mean.n - mean.total) * math.log1p(math.exp(gap))
        return likely

    best = optimize.minimize(posterior, [0.0] * 3, tol=1e-12).x
    found = standings(results)
    above = standings(results, "c")
    for place, id in enumerate(results.ids):
        assert found[id].log_odds.value == pytest.approx(best[place] - sum(best) / 3, abs=1e-4)
        assert above[id].log_odds.value == pytest.approx(best[place] - best[2], abs=1e-4)
        assert found[id].verdicts == 120
    assert above["c"].log_odds == (0, 0, 0)


@pytest.mark.parametrize(("tasks", "size", "spread"), [(40, 1, 0.0), (12, 5, 0.7), (80, 2, 0.4)])
def test_the_intervals_of_arms_hold_the_truth_as_often_as_they_say_also_with_clusters(
    tasks: int, size: int, spread: float
) -> None:
    true, inside, trials = {"a": 0.4, "b": 0.0, "c": -0.1, "d": -0.3}, 0, 100
    for seed in range(trials):
        found = standings(met(true, tasks, size, spread, seed))
        inside += sum(found[id].log_odds.low <= true[id] <= found[id].log_odds.high for id in true)
    assert 0.92 <= inside / (4 * trials) <= 1.0


def test_clusters_make_the_interval_wider_and_unanimous_ones_leave_it_open() -> None:
    alone, together = PairedResults(["a", "b"]), PairedResults(["a", "b"])
    for number in range(60):
        alone.add(str(number), "a", "b", float(number % 10 < 7))
    for number in range(60):
        together.add(str(number // 10), "a", "b", float(number // 10 < 4))
    one, other = standings(alone)["a"].log_odds, standings(together)["a"].log_odds
    assert other.high - other.low > 2 * (one.high - one.low)
    few, many = PairedResults(["a", "b"]), PairedResults(["a", "b"])
    for number in range(60):
        few.add(str(number // 20), "a", "b", 1.0)
        many.add(str(number), "a", "b", 1.0)
    assert standings(few)["a"].log_odds.low < 0 < standings(many)["a"].log_odds.low


def test_a_result_is_the_same_from_either_side_and_no_result_says_nothing() -> None:
    one, other = PairedResults(["a", "b", "c"]), PairedResults(["a", "b", "c"])
    for number, won in enumerate((1.0, 0.5, 0.0, 1.0, 0.75)):
        one.add(str(number), "a", "b", won)
        other.add(str(number), "b", "a", 1 - won)
    assert standings(one) == standings(other)
    assert standings(one)["c"].verdicts == 0
    nothing = standings(PairedResults(["a", "b"]))
    assert nothing["a"].log_odds.value == 0
    assert nothing["a"].log_odds.low < -2
    with pytest.raises(KeyError):
        one.add("9", "a", "z", 1.0)
    with pytest.raises(UsageError, match="the same name"):
        PairedResults(["a", "a"])

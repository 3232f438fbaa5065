"""Selection: the same choice in every order, from exact cosines, held to naive ones that compute all similarities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")

import numpy as np

from hybrid.errors import BadData, UsageError
from pipelines.branch.calibration import calibrated
from pipelines.branch.clusters import clustered
from pipelines.branch.features import by_score, mixed, rank_normalised
from pipelines.branch.rows import Rows, cosines, nearest, unit_rows
from pipelines.branch.selection import METHODS, SAME, Candidates, Selection, select

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(sorted(METHODS))


def candidates(n: int, d: int, seed: int) -> Candidates:
    """Candidates in groups, some of them twice, with equal scores among them."""
    draws = np.random.default_rng(seed)
    rows = draws.normal(size=(n, d)) + 2 * draws.normal(size=(4, d))[draws.integers(0, 4, n)]
    rows[n // 2] = rows[0]
    return Candidates(unit_rows(rows), draws.integers(0, 8, n) / 8, [f"id{place:03}" for place in range(n)])


def shuffled(given: Candidates, seed: int) -> Candidates:
    order = np.random.default_rng(seed).permutation(len(given.ids))
    return Candidates(
        given.rows[order], [given.scores[place] for place in order], [given.ids[place] for place in order]
    )


def named(chosen: Selection, of: Candidates) -> tuple[list[str], list[Any]]:
    """The selection by ids instead of places."""

    def name(place: int) -> str | int:
        return of.ids[place] if place >= 0 else place

    drops = [(name(drop.place), drop.verdict, name(drop.sibling), drop.similarity) for drop in chosen.dropped]
    return [of.ids[place] for place in chosen.kept], sorted(drops)


# --- rows


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 300), SEEDS, st.floats(1e-30, 1e30))
def test_products_of_rows_are_exact_in_any_order_of_their_dimensions(n: int, d: int, seed: int, scale: float) -> None:
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=(n, d)) * scale + draws.normal() * scale
    rows = unit_rows(vectors)
    order = draws.permutation(d)
    assert (rows[:, order] @ rows[:, order].T == rows @ rows.T).all()
    assert (unit_rows(vectors * 4.0) == rows).all()
    true = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    assert np.abs(rows @ rows.T - true @ true.T).max() < 1e-6
    assert np.abs(np.einsum("ij,ij->i", rows, rows) - 1).max() < 1e-6


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[float("nan"), 1.0]], [[float("inf"), 1.0]], [[1.0], [1.0, 2.0]]])
def test_what_is_no_vector_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(BadData):
        unit_rows(bad)


def test_vectors_of_another_model_are_refused_beside_those_that_are_kept() -> None:
    two, three = unit_rows([[1.0, 2.0]]), unit_rows([[1.0, 2.0, 3.0]])
    for mistake in (
        lambda: unit_rows([[1.0, 2.0]], 3),
        lambda: nearest(two, three),
        lambda: select("mmr", Candidates(two, [1.0], ["a"]), 1, kept=three),
    ):
        with pytest.raises(BadData, match="2 dimensions beside those of 3 that are kept"):
            mistake()


def test_nothing_kept_is_near_to_nothing() -> None:
    rows = unit_rows([[3.0, 4.0]])
    assert nearest(rows, unit_rows([], 2)) == ([-1], [-1.0])
    assert nearest(rows, unit_rows([[4.0, 3.0], [3.0, 4.0], [3.0, 4.0]])) == ([1], [pytest.approx(1)])
    assert unit_rows([], 7).shape == (0, 7)


# --- methods


@settings(deadline=None)
@given(NAMES, st.integers(2, 14), st.integers(2, 8), SEEDS, st.floats(0, 1), st.booleans())
def test_the_order_of_the_candidates_changes_nothing(
    method: str, n: int, d: int, seed: int, limit: float, more: bool
) -> None:
    first = candidates(n, d, seed)
    again = shuffled(first, seed)
    kept = candidates(3, d, seed + 1).rows if more else None
    for k in (1, n // 2, n):
        told = named(select(method, first, k, limit=limit, kept=kept), first)
        assert told == named(select(method, again, k, limit=limit, kept=kept), again)


@settings(deadline=None)
@example("mmr", 5, 3, 0, 5e-324)
@given(NAMES, st.integers(2, 14), st.integers(2, 8), SEEDS, st.floats(0, 1))
def test_nothing_is_kept_twice_and_every_other_has_its_nearest_sibling(
    method: str, n: int, d: int, seed: int, limit: float
) -> None:
    of = candidates(n, d, seed)
    k = 1 + seed % n
    chosen = select(method, of, k, limit=limit)
    places = [*chosen.kept, *(drop.place for drop in chosen.dropped)]
    assert sorted(places) == list(range(n))
    similar = cosines(of.rows, of.rows)
    for one in chosen.kept:
        assert all(similar[one, other] <= min(limit, SAME) for other in chosen.kept if other != one)
    for drop in chosen.dropped:
        near = max(similar[drop.place, other] for other in chosen.kept)
        assert drop.similarity == round(float(near), 6)
        assert drop.sibling in chosen.kept
        assert similar[drop.place, drop.sibling] == near
        assert (drop.verdict == "dropped-similar") == (near > min(limit, SAME))
        assert drop.verdict == "dropped-similar" or len(chosen.kept) == k


@settings(deadline=None)
@given(NAMES, st.integers(3, 14), st.integers(2, 8), SEEDS)
def test_more_is_a_longer_choice_and_a_choice_goes_on_from_what_is_kept(method: str, n: int, d: int, seed: int) -> None:
    of = candidates(n, d, seed)
    whole = select(method, of, n, limit=0.95).kept
    for k in range(1, n):
        assert select(method, of, k, limit=0.95).kept == whole[: min(k, len(whole))]
    if method in ("beam", "cosine", "mmr"):  # the quality of what was kept is known to dpp only within one choice
        head = whole[: len(whole) // 2]
        rest = [place for place in range(n) if place not in head]
        if head and len(rest) >= 1:
            others = Candidates(of.rows[rest], [of.scores[place] for place in rest], [of.ids[place] for place in rest])
            more = select(method, others, len(rest), limit=0.95, kept=of.rows[list(head)]).kept
            assert tuple(rest[place] for place in more) == whole[len(head) :]


@settings(deadline=None)
@given(st.integers(2, 14), st.integers(2, 8), SEEDS, st.floats(-0.5, 1))
def test_one_after_another_as_they_arrive_is_the_choice_of_all_at_once(n: int, d: int, seed: int, limit: float) -> None:
    rows = candidates(n, d, seed).rows
    arrived: list[int] = []
    for place in range(n):
        if nearest(rows[place : place + 1], rows[arrived])[1][0] <= min(limit, SAME):
            arrived.append(place)
    of = Candidates(rows, [0.5] * n, [f"{place:03}" for place in range(n)])
    assert list(select("cosine", of, n, limit=limit).kept) == arrived


def naive_mmr(of: Candidates, k: int, balance: float, unrelated: float, limit: float) -> list[int]:
    similar = cosines(of.rows, of.rows)
    kept: list[int] = []
    while len(kept) < k:
        best, most = -1, -np.inf
        for place in by_score(of.scores, of.ids):
            near = max((similar[place, other] for other in kept), default=-1.0)
            if place in kept or near > limit:
                continue
            nearness = min(1.0, max(0.0, (near - unrelated) / (limit - unrelated)))
            gain = balance * of.scores[place] - (1 - balance) * nearness
            if gain > most:
                best, most = place, gain
        if best < 0:
            break
        kept.append(best)
    return kept


@settings(deadline=None)
@given(st.integers(2, 14), st.integers(2, 8), SEEDS, st.floats(0, 1), st.sampled_from([0.0, 0.25]), st.booleans())
def test_mmr_is_the_choice_that_computes_every_similarity(
    n: int, d: int, seed: int, balance: float, unrelated: float, limited: bool
) -> None:
    limit = 0.8 if limited else SAME
    of = candidates(n, d, seed)
    k = 1 + seed % n
    chosen = select("mmr", of, k, limit=limit, balance=balance, unrelated=unrelated)
    assert list(chosen.kept) == naive_mmr(of, k, balance, unrelated, limit)


@settings(deadline=None)
@given(st.integers(2, 10), st.integers(2, 8), SEEDS, st.sampled_from([0.0, 0.5, 0.9]))
def test_dpp_adds_the_most_volume_each_time(n: int, d: int, seed: int, weight: float) -> None:
    of = candidates(n, d, seed)
    quality = 1 - weight + weight * np.array(of.scores)
    kernel = quality[:, None] * (of.rows @ of.rows.T) * quality[None, :]
    kept: list[int] = []
    for place in select("dpp", of, min(n, d), balance=weight).kept:
        volumes = {
            other: np.linalg.det(kernel[np.ix_([*kept, other], [*kept, other])])
            for other in range(n)
            if other not in kept
        }
        before = np.linalg.det(kernel[np.ix_(kept, kept)]) if kept else 1.0
        most = max(volumes.values())
        if most > 1e-6 * before:
            assert volumes[place] >= most * (1 - 1e-5)
        kept.append(place)


def test_dpp_takes_account_of_what_is_kept_elsewhere() -> None:
    of = Candidates(np.eye(3), [1.0, 0.9, 0.8], ["a", "b", "c"])
    assert select("dpp", of, 1).kept == (0,)
    assert select("dpp", of, 1, kept=np.array([[0.8, 0.6, 0.0]])).kept == (2,)


@settings(deadline=None)
@given(NAMES, st.integers(1, 9))
def test_a_model_that_always_answers_the_same_has_one_text_kept(method: str, n: int) -> None:
    rows = unit_rows([[1.0, 2.0, 2.0]] * n)
    chosen = select(method, Candidates(rows, [0.5] * n, [f"n{place}" for place in range(n)]), n)
    assert chosen.kept == (0,)
    assert {(drop.verdict, drop.sibling) for drop in chosen.dropped} <= {("dropped-similar", 0)}
    assert all(drop.similarity == pytest.approx(1) for drop in chosen.dropped)


def test_what_cannot_be_chosen_is_a_usage_error() -> None:
    of = candidates(3, 2, 0)
    for k in (0, 4):
        with pytest.raises(UsageError, match=f"{k} of 3 candidates cannot be kept"):
            select("mmr", of, k)
    with pytest.raises(UsageError, match="no selection 'mrm'") as raised:
        select("mrm", of, 1)
    assert "did you mean 'mmr'" in raised.value.hint
    for wrong in ({"balance": 1.5}, {"limit": 2.0}, {"unrelated": 1.1}, {"balance": float("nan")}):
        with pytest.raises(UsageError):
            select("mmr", of, 1, **wrong)
    with pytest.raises(BadData, match="no id twice"):
        Candidates(of.rows, of.scores, ["a", "a", "b"])


def test_a_limit_keeps_the_best_of_each_kind() -> None:
    rows = unit_rows([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    chosen = select("cosine", Candidates(rows, [0.9, 1.0, 0.2, 0.1], ["a", "b", "c", "d"]), 4, limit=0.8)
    assert chosen.kept == (1, 2)
    assert [(drop.place, drop.verdict, drop.sibling) for drop in chosen.dropped] == [
        (0, "dropped-similar", 1),
        (3, "dropped-similar", 2),
    ]


# --- features


def test_ranks_share_what_equal_values_would_have() -> None:
    assert rank_normalised([0.3, None, 0.1, 0.3, 9.0]) == [0.5, None, 0.0, 0.5, 1.0]
    assert rank_normalised([7.0, 7.0]) == [0.5, 0.5]
    assert rank_normalised([2.0]) == [0.5]
    assert rank_normalised([None]) == [None]
    assert rank_normalised([0.1 + 0.2, 0.3, 0.4]) == [0.25, 0.25, 1.0]
    with pytest.raises(BadData):
        rank_normalised([float("nan")])


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), SEEDS)
def test_ranks_do_not_depend_on_the_order_or_the_unit(values: list[float], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(values))
    ranks = rank_normalised(values)
    assert rank_normalised([values[place] for place in order]) == [ranks[place] for place in order]
    assert all(0 <= rank <= 1 for rank in ranks if rank is not None)


def test_a_constant_feature_changes_no_order_and_a_missing_one_is_left_out() -> None:
    features = {"relevance": [0.1, 0.9, 0.5], "logprob": [-1.0, -1.0, -1.0], "judge": [None, None, 0.2]}
    scores = mixed(features, {"relevance": 2, "logprob": 1})
    assert by_score(scores, ["a", "b", "c"]) == [1, 2, 0]
    assert mixed(features, {"relevance": 1, "judge": 1}) == [0.0, 1.0, 0.5]
    assert mixed(features, {"judge": 1}) == [0.5, 0.5, 0.5]
    assert by_score([0.5, 0.5, 0.7], ["b", "a", "z"]) == [2, 1, 0]


def test_an_unknown_weight_is_refused_by_name() -> None:
    features = {"relevance": [0.1], "logprob": [None]}
    with pytest.raises(UsageError, match="the weight 'relevence' belongs to no feature") as raised:
        mixed(features, {"relevence": 1})
    assert "did you mean 'relevance'" in raised.value.hint
    for wrong in ({"relevance": -1}, {"relevance": float("nan")}, {"relevance": 0}, {}):
        with pytest.raises(UsageError):
            mixed(features, wrong)


# --- calibration and clusters


@settings(deadline=None)
@given(SEEDS, st.integers(2, 20), st.integers(2, 10))
def test_a_threshold_follows_the_model_and_not_the_order(seed: int, n: int, d: int) -> None:
    draws = np.random.default_rng(seed)
    rows = unit_rows(draws.normal(size=(n, d)))
    prompts = [str(place % 3) for place in range(n)]
    found = calibrated(rows, prompts)
    order = draws.permutation(n)
    assert calibrated(rows[order], [prompts[place] for place in order]) == found
    pairs = [rows[i] @ rows[j] for i in range(n) for j in range(i) if prompts[i] != prompts[j]]
    assert (found.middle, found.pairs) == (pytest.approx(np.median(pairs), abs=1e-6), len(pairs))
    assert found.sigmas(found.middle + 2 * found.spread) == pytest.approx(2)
    assert found.at(0) == found.middle
    assert found.at(1e9) == 1


def test_a_calibration_needs_two_prompts_and_has_a_spread_where_cosines_are_equal() -> None:
    with pytest.raises(UsageError, match="texts of two prompts"):
        calibrated(unit_rows([[1.0], [1.0]]), ["a", "a"])
    with pytest.raises(UsageError, match="texts of two prompts"):
        calibrated(unit_rows([], 3), [])
    found = calibrated(np.eye(16), [str(place) for place in range(16)])
    assert (found.middle, found.spread) == (0, 0.25)


def naive_clusters(rows: Rows, limit: float) -> set[frozenset[int]]:
    similar = cosines(rows, rows)
    groups = [[place] for place in range(len(rows))]
    while len(groups) > 1:
        near, i, j = max(
            (similar[np.ix_(one, other)].mean(), -i, -j)
            for i, one in enumerate(groups)
            for j, other in enumerate(groups)
            if i < j
        )
        if near < limit:
            break
        groups[-i] += groups.pop(-j)
    return {frozenset(group) for group in groups}


@settings(deadline=None)
@given(st.integers(1, 14), st.integers(2, 6), SEEDS, st.floats(-0.5, 0.99))
def test_clusters_are_those_of_average_linkage_in_any_order(n: int, d: int, seed: int, limit: float) -> None:
    rows = unit_rows(np.random.default_rng(seed).normal(size=(n, d)))
    ids = [f"id{place:02}" for place in range(n)]
    found = clustered(rows, ids, limit)
    groups = {frozenset(p for p in range(n) if found.labels[p] == label) for label in range(len(found.medoids))}
    assert groups == naive_clusters(rows, limit)
    assert list(found.sizes) == sorted(found.sizes, reverse=True)
    for label, medoid in enumerate(found.medoids):
        assert found.labels[medoid] == label
    order = np.random.default_rng(seed).permutation(n)
    again = clustered(rows[order], [ids[place] for place in order], limit)
    assert [again.labels[list(order).index(place)] for place in range(n)] == list(found.labels)
    assert [order[place] for place in again.medoids] == list(found.medoids)


def test_the_number_of_clusters_is_found() -> None:
    rows = unit_rows([[1, 0, 0], [1, 0.1, 0], [1, 0.05, 0], [0, 1, 0], [0, 0, 1], [0, 0.1, 1]])
    found = clustered(rows, list("abcdef"), 0.8)
    assert (found.labels, found.medoids, found.sizes) == ((0, 0, 0, 2, 1, 1), (2, 4, 3), (3, 2, 1))
    assert clustered(unit_rows([], 3), [], 0.5).labels == ()


def test_more_texts_than_are_clustered_at_a_time_join_what_is_there_or_make_clusters_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = np.random.default_rng(0)
    kinds = draws.integers(0, 5, 100)
    kinds[1:4] = 5  # a rare kind, which the first sample has not
    rows = unit_rows(np.eye(6)[kinds] + draws.normal(size=(100, 6)) * 0.05)
    ids = [f"id{place:03}" for place in range(100)]
    whole = clustered(rows, ids, 0.8)
    monkeypatch.setattr("pipelines.branch.clusters.MOST", 10)
    parts = clustered(rows, ids, 0.8)
    for found in (whole, parts):  # the kinds of the members are those of the medoids
        assert [kinds[found.medoids[label]] for label in found.labels] == kinds.tolist()
    assert parts.sizes == whole.sizes
    assert whole.sizes[-1] == 3
    order = draws.permutation(100)
    again = clustered(rows[order], [ids[place] for place in order], 0.8)
    assert [order[place] for place in again.medoids] == list(parts.medoids)

"""Fingerprints and clusters: planted tasks are found, noise is told from them, and scikit-learn says the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")
pytest.importorskip("sklearn", reason="needs scikit-learn, which is not installed")

import numpy as np
from sklearn.metrics import silhouette_score

from pipelines.atlas import fingerprints
from pipelines.atlas.aggregation import Factors
from pipelines.atlas.fingerprints import (
    Clustering,
    agreement,
    clusters,
    importance,
    joined,
    projected,
    relabelled,
    similarity,
    similarity_of_updates,
)
from pipelines.atlas.leading import Floats

Gradient = dict[str, Floats]
TRUTH = [client % 3 for client in range(12)]
SHAPES = {"query": (16, 4), "wide": (40, 2)}


def gradients(signal: float, seed: int, truth: list[int] = TRUTH, *, directions: int = 0) -> list[Gradient]:
    """Two gradients a client, first ones first: `signal` times a direction of the task, and noise of norm about 1.

    `directions`: of the noise; 0: all that there are. With few of them noise alone has groups.
    """
    draws = np.random.default_rng(seed)
    few = {name: draws.normal(size=(directions, *shape)) for name, shape in SHAPES.items()}

    def noise() -> Gradient:
        parts = draws.normal(size=directions)
        rows = {n: np.tensordot(parts, few[n], 1) if directions else draws.normal(size=s) for n, s in SHAPES.items()}
        return {name: row / np.prod(row.shape) ** 0.5 for name, row in rows.items()}

    tasks = [{name: row / np.linalg.norm(row) for name, row in noise().items()} for _ in set(truth)]
    return [
        {name: 7.0 * (signal * tasks[task][name] + row) for name, row in noise().items()} for task in [*truth, *truth]
    ]


def found_in(given: list[Gradient], most: int = 5, seed: int = 0, permutations: int = 99) -> Clustering:
    return clusters(given, most, seed, permutations)


def test_planted_tasks_are_found_whatever_the_scale_of_a_client() -> None:
    for seed in range(3):
        given = gradients(1.0, seed)
        given[3] = {name: 1e-6 * row for name, row in given[3].items()}
        found = found_in(given, seed=seed)
        assert agreement(found.labels, TRUTH).ari == 1.0
        assert agreement(found.labels, TRUTH).nmi == 1.0
        assert (found.structured, found.k) == (True, 3)
        assert found.p_value == 0.01


@pytest.mark.parametrize("directions", [0, 2])
def test_noise_has_no_structure_even_where_it_has_groups(directions: int) -> None:
    found = [found_in(gradients(0.0, seed, directions=directions), permutations=19) for seed in range(16)]
    assert sum(one.structured for one in found) <= 3  # of 16 at the level of 0.05: more by chance in 1 of 100
    assert all(one.labels == (0,) * 12 and one.k == 1 for one in found if not one.structured)
    assert np.mean([one.p_value for one in found]) > 0.25


def test_few_clients_are_told_apart_and_too_few_are_one_cluster() -> None:
    found = found_in(gradients(3.0, 0, [0, 0, 1, 1, 2, 2]))
    assert (found.labels, found.structured) == ((0, 0, 1, 1, 2, 2), True)
    assert found_in(gradients(3.0, 0, [0, 0, 1, 1]), 3).p_value > 0.05  # 9 of the 105 ways to pair their halves
    for n in (1, 2):
        assert found_in(gradients(3.0, 0, [0] * n)).labels == (0,) * n
    assert not found_in(gradients(5.0, 0), 1).structured


def test_clusters_do_not_depend_on_the_order_of_the_clients_and_are_numbered_as_met() -> None:
    given = gradients(1.0, 1)
    order = np.random.default_rng(0).permutation(12)
    found = found_in([given[one] for one in [*order, *(12 + order)]])
    assert agreement(found.labels, [TRUTH[client] for client in order]).ari == 1.0
    assert [label for place, label in enumerate(found.labels) if label not in found.labels[:place]] == [0, 1, 2]
    assert found_in(given) == found_in(given)


def test_a_client_is_the_sum_of_its_halves() -> None:
    given = gradients(1.0, 2)
    unit = [{name: row / np.linalg.norm(row) for name, row in one.items()} for one in given]
    whole = [
        {name: first[name] + second[name] for name in SHAPES} for first, second in zip(unit, unit[12:], strict=False)
    ]
    flat = np.array([np.concatenate([row.ravel() for row in one.values()]) for one in whole])
    flat /= np.linalg.norm(flat, axis=1)[:, None]
    assert joined(similarity(given)) == pytest.approx(flat @ flat.T, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_the_silhouette_is_that_of_scikit_learn(n: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    points = draws.normal(size=(n, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    labels = np.array([0, 1, *draws.integers(0, min(3, n - 1), n - 2)])
    found = fingerprints.silhouette(distances, labels)
    assert found == pytest.approx(silhouette_score(distances, labels, metric="precomputed"), abs=1e-12)


def test_updates_have_the_cosines_of_their_products() -> None:
    draws = np.random.default_rng(0)
    updates = [
        {name: Factors(draws.normal(size=(rank, 6)), draws.normal(size=(9, rank))) for name in ("q", "v")}
        for rank in (1, 4, 2)
    ]
    dense = similarity([{name: part.product() for name, part in one.items()} for one in updates])
    assert similarity_of_updates(updates) == pytest.approx(dense, abs=1e-12)


def test_equal_fingerprints_have_a_cosine_of_exactly_one_and_others_have_not() -> None:
    given = gradients(1.0, 3)
    given[5] = {name: 3.0 * row for name, row in given[2].items()}
    similar = similarity(given)
    assert similar[2, 5] == similar[5, 2] == 1.0
    assert (np.triu(similar, 1) == 1.0).sum() == 1


def test_a_client_without_a_gradient_is_an_error_and_never_a_random_fingerprint() -> None:
    given = gradients(1.0, 4)
    given[7] = {name: 0 * row for name, row in given[7].items()}
    with pytest.raises(ValueError, match="client 7: every layer's gradient is zero"):
        similarity(given)
    given[7] = {"query": given[6]["query"], "wide": 0 * given[6]["wide"]}
    assert similarity(given)[6, 7] == pytest.approx(0.5**0.5)
    for wrong, message in {
        "client 2: layer 'wide' is missing": {"query": given[2]["query"]},
        r"client 2: layer 'wide' has \[4, 2\], not \[40, 2\]": {**given[2], "wide": given[2]["wide"][:4]},
        "client 2: layer 'query' holds numbers": {**given[2], "query": given[2]["query"] * np.nan},
    }.items():
        with pytest.raises(ValueError, match=wrong):
            similarity([*given[:2], message])
    with pytest.raises(ValueError, match="no gradient"):
        similarity([])


def test_random_projections_keep_the_clusters_and_the_same_seed_gives_the_same_ones() -> None:
    given = gradients(1.5, 5)
    small = [projected(one, 64, seed=9) for one in given]
    assert np.abs(similarity(small) - similarity(given)).max() < 0.4
    assert agreement(found_in(small).labels, TRUTH).ari == 1.0
    assert np.array_equal(projected(given[0], 64, seed=9)["wide"], small[0]["wide"])
    noisy = projected(given[0], 64, seed=9, noise=0.1, noise_seed=1)
    assert 0.05 < np.linalg.norm(noisy["wide"] - small[0]["wide"]) < 0.2


def test_new_clusters_take_the_numbers_of_the_old_ones_that_they_share_clients_with() -> None:
    assert relabelled([0, 0, 1, 1, 2], [2, 2, 0, 0, 1]) == (2, 2, 0, 0, 1)
    assert relabelled([0, 0, 1, 2, 2], [1, 1, 1, 0, 0]) == (1, 1, 2, 0, 0)
    assert relabelled([0, 0, 0], [4, 7, 7]) == (7, 7, 7)
    assert relabelled([0, 1, 2], [0, 0, 0]) == (0, 1, 2)


def test_the_importance_of_layers_is_their_share_of_the_squared_norm() -> None:
    found = importance([{"q": np.full(4, 1.0), "v": np.full(3, 2.0)}] * 2)
    assert found == pytest.approx({"q": 4 / 16, "v": 12 / 16})
    with pytest.raises(ValueError, match="no layer is important"):
        importance([{"q": np.zeros(3)}])


def test_clusters_want_two_gradients_of_each_client() -> None:
    with pytest.raises(ValueError, match="5 gradients: there are two of each client"):
        found_in(gradients(1.0, 0)[:5])


def test_what_all_clients_have_in_common_does_not_hide_their_tasks() -> None:
    common, given = gradients(0.0, 99)[0], gradients(1.0, 0)
    given = [{name: row + 10 * common[name] for name, row in one.items()} for one in given]
    assert joined(similarity(given)).min() > 0.9
    assert agreement(found_in(given).labels, TRUTH).ari == 1.0

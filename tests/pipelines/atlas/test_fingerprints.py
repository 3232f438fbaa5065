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
    agreement,
    clusters,
    importance,
    projected,
    relabelled,
    similarity,
    similarity_of_updates,
)
from pipelines.atlas.leading import Floats

Gradient = dict[str, Floats]
TRUTH = [client % 3 for client in range(12)]


def gradients(signal: float, seed: int, truth: list[int] = TRUTH) -> list[Gradient]:
    """Gradients that share `signal` times a direction with the clients of the same task, and noise of norm 1."""
    draws = np.random.default_rng(seed)
    shapes = {"query": (16, 4), "wide": (40, 2)}

    def drawn() -> Gradient:
        rows = {name: draws.normal(size=shape) for name, shape in shapes.items()}
        return {name: row / np.linalg.norm(row) for name, row in rows.items()}

    tasks = [drawn() for _ in set(truth)]
    noise = [drawn() for _ in truth]
    return [
        {name: 7.0 * (signal * tasks[task][name] + noise[client][name]) for name in shapes}
        for client, task in enumerate(truth)
    ]


def test_planted_tasks_are_found_whatever_the_scale_of_a_client() -> None:
    for seed in range(3):
        given = gradients(1.0, seed)
        given[3] = {name: 1e-6 * row for name, row in given[3].items()}
        found = clusters(similarity(given), 5, seed)
        assert agreement(found.labels, TRUTH).ari == 1.0
        assert agreement(found.labels, TRUTH).nmi == 1.0
        assert (found.structured, found.k) == (True, 3)
        assert found.p_value <= 0.01


def test_noise_has_no_structure() -> None:
    found = [clusters(similarity(gradients(0.0, seed)), 5, seed, permutations=60) for seed in range(10)]
    assert sum(one.structured for one in found) <= 1  # of 10 at the level of 0.05
    assert all(one.labels == (0,) * 12 and one.k == 1 for one in found if not one.structured)


def test_too_few_clients_are_one_cluster() -> None:
    for n in (1, 2, 3):
        assert clusters(np.eye(n), 5, 0).labels == (0,) * n
    assert clusters(similarity(gradients(5.0, 0, [0, 0, 1, 1])), 3, 0).p_value > 0.05  # 1 of 5 by chance alone
    assert not clusters(similarity(gradients(5.0, 0)), 1, 0).structured


def test_clusters_do_not_depend_on_the_order_of_the_clients_and_are_numbered_as_met() -> None:
    similar = similarity(gradients(1.0, 1))
    order = np.random.default_rng(0).permutation(12)
    found = clusters(similar[np.ix_(order, order)], 5, 0)
    assert agreement(found.labels, [TRUTH[client] for client in order]).ari == 1.0
    assert [label for place, label in enumerate(found.labels) if label not in found.labels[:place]] == [0, 1, 2]
    assert clusters(similar, 5, 0) == clusters(similar, 5, 0)


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
    assert agreement(clusters(similarity(small), 5, 0).labels, TRUTH).ari == 1.0
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


def test_what_is_no_matrix_of_similarities_is_refused() -> None:
    for wrong in (np.zeros((3, 2)), np.full((4, 4), np.nan), np.triu(np.ones((5, 5)))):
        with pytest.raises(ValueError, match="similarities are"):
            clusters(wrong, 3, 0)

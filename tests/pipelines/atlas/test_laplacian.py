"""The Laplacian step on products: its limits are local training and FedAvg, and it is its formula in between."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy", reason="needs numpy, which is not installed")
pytest.importorskip("scipy", reason="needs scipy, which is not installed")

import numpy as np

from pipelines.atlas.aggregation import Factors, Update, compressed, shares, stacked
from pipelines.atlas.laplacian import (
    adjacency,
    is_convex,
    largest_step,
    random_adjacency,
    step,
    step_dense,
)
from pipelines.atlas.leading import Floats

SEEDS = st.integers(0, 2**32 - 1)
FULL = 9
"""A rank at which nothing is lost."""


def made(clients: int, seed: int, rank: int = 2) -> list[Update]:
    draws = np.random.default_rng(seed)
    return [{"q": Factors(draws.normal(size=(rank, 6)), draws.normal(size=(9, rank)))} for _ in range(clients)]


def products(updates: list[Update]) -> Floats:
    return np.stack([one["q"].product() for one in updates])


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), SEEDS, st.floats(0.0, 0.9))
def test_the_step_is_that_of_mira_from_the_old_values(clients: int, seed: int, eta_lambda: float) -> None:
    updates, graph = made(clients, seed), random_adjacency(clients, seed)
    found, errors = step(updates, graph, eta_lambda, [FULL] * clients)
    old = products(updates)
    for client in range(clients):
        pull = sum(graph[client, other] * (old[client] - old[other]) for other in range(clients) if other != client)
        assert np.allclose(found[client]["q"].product(), old[client] - eta_lambda * pull, atol=1e-12)
    assert errors.whole < 1e-12


def test_lambda_zero_is_local_training_to_the_bit() -> None:
    updates = made(4, 0)
    found, errors = step(updates, adjacency(np.ones((4, 4))), 0.0, [2] * 4)
    for one, other in zip(found, updates, strict=True):
        assert np.array_equal(one["q"].a, other["q"].a)
        assert np.array_equal(one["q"].b, other["q"].b)
    assert errors.whole == 0.0


def test_a_complete_graph_with_a_whole_step_is_fedavg() -> None:
    updates = made(5, 1)
    graph = adjacency(np.ones((5, 5)))
    assert np.allclose(graph, (1 - np.eye(5)) / 5, rtol=0, atol=1e-16)
    found, _ = step(updates, graph, 1.0, [FULL] * 5)
    assert np.allclose(products(found), products(updates).mean(axis=0), atol=1e-13)
    small, errors = step(updates, graph, 1.0, [2] * 5)  # and compressed: the same as the mean compressed
    of_mean, error = compressed(stacked(updates, [0.2] * 5), 2)
    assert np.allclose(products(small), of_mean["q"].product(), atol=1e-12)
    assert errors.whole == pytest.approx(error.whole)
    assert error.whole > 0.1


def test_with_shares_a_whole_step_is_fedavg_weighted_by_rows() -> None:
    updates, rows, labels = made(4, 5), shares([10, 20, 30, 40]), [0, 1, 1, 0]
    found, _ = step(updates, adjacency(np.ones((4, 4)), shares=rows), 1.0, [FULL] * 4)
    assert np.allclose(products(found), np.tensordot(rows, products(updates), 1), atol=1e-13)
    found, _ = step(updates, adjacency(np.ones((4, 4)), shares=rows, labels=labels), 1.0, [FULL] * 4)
    assert np.allclose(found[1]["q"].product(), 0.4 * products(updates)[1] + 0.6 * products(updates)[2], atol=1e-13)
    similar = np.array([[1.0, 0.2, 0.1], [0.2, 1.0, -0.3], [0.1, -0.3, 1.0]])
    graph = adjacency(similar, shares=[0.7, 0.2, 0.1])
    assert is_convex(graph, 1.0)
    assert np.linalg.eigvals(np.diag(graph.sum(axis=1)) - graph).real.max() == pytest.approx(2 / largest_step(graph))


def test_without_edges_between_clusters_each_cluster_is_a_federation_of_its_own() -> None:
    updates, labels = made(5, 2), [0, 1, 0, 1, 1]
    graph = adjacency(np.ones((5, 5)), labels=labels)
    found, _ = step(updates, graph, 1.0, [FULL] * 5)
    old = products(updates)
    for client, label in enumerate(labels):
        members = [other for other in range(5) if labels[other] == label]
        assert np.allclose(found[client]["q"].product(), old[members].mean(axis=0), atol=1e-13)


def test_only_the_sampled_clients_move() -> None:
    updates = made(4, 3)
    graph = adjacency(np.full((4, 4), 0.5))
    whole, _ = step(updates, graph, 0.5, [FULL] * 4)
    found, _ = step(updates, graph, 0.5, [FULL] * 4, only=[2, 1])
    assert found[0] is updates[0]
    assert found[3] is updates[3]
    assert np.array_equal(products(found)[1:3], products(whole)[1:3])


def test_weights_fall_with_the_distance_of_the_fingerprints_and_are_scaled_by_the_largest_degree() -> None:
    similar = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.5], [0.0, 0.5, 1.0]])
    rbf = np.exp(-1.5 * (2 - 2 * similar))
    graph = adjacency(similar, sharpness=1.5)
    assert np.allclose(graph, (rbf - np.eye(3)) / rbf.sum(axis=1).max())
    assert is_convex(graph, 1.0)
    assert not is_convex(graph, 2.1)
    line = adjacency(similar, nearest=1)
    assert (line > 0).tolist() == [[False, True, False], [True, False, True], [False, True, False]]


def test_random_graphs_are_symmetric_convex_and_the_same_for_a_seed() -> None:
    graph = random_adjacency(6, 4)
    assert np.array_equal(graph, graph.T)
    assert np.array_equal(graph, random_adjacency(6, 4))
    assert not np.array_equal(graph, random_adjacency(6, 5))
    assert is_convex(graph, 1.0)
    assert not np.diag(graph).any()


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), SEEDS)
def test_a_step_that_would_diverge_is_refused(clients: int, seed: int) -> None:
    updates, graph = made(clients, seed), random_adjacency(clients, seed)
    limit = largest_step(graph)
    step(updates, graph, 0.99 * limit, [2] * clients)
    for wrong in (1.0001 * limit, 2 * limit, -0.1, float("nan")):
        with pytest.raises(ValueError, match="would diverge"):
            step(updates, graph, wrong, [2] * clients)


def test_whole_tensors_take_the_same_step_and_keep_their_type() -> None:
    heads = [{"w": np.full((2, 2), value, dtype=np.float32)} for value in (1.0, 2.0, 6.0)]
    found = step_dense(heads, adjacency(np.ones((3, 3))), 1.0)
    assert all((one["w"] == 3.0).all() and one["w"].dtype == np.float32 for one in found)
    assert step_dense(heads, adjacency(np.ones((3, 3))), 1.0, only=[1])[0]["w"] is heads[0]["w"]
    with pytest.raises(ValueError, match="client 2: tensor 'w'"):
        step_dense([*heads[:2], {"w": heads[0]["w"][:1]}], np.zeros((3, 3)), 0.5)


def test_what_is_no_graph_is_refused() -> None:
    updates = made(3, 0)
    for wrong, message in (
        (np.zeros((3, 2)), "square"),
        (np.full((3, 3), np.nan), "square"),
        (-np.ones((3, 3)), "at least 0"),
        (np.zeros((2, 2)), "a graph of 2 clients, and 3 updates"),
    ):
        with pytest.raises(ValueError, match=message):
            step(updates, wrong, 0.5, [2] * 3)

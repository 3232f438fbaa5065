"""The Laplacian step of MIRA on the products of the factors: neighbours in a graph of clients pull each other.

MIRA (IEEE Networking Letters 7(3), 2025) regularises lambda / 2 sum_kl a_kl |W_k - W_l|^2. Its step on the updates,
W_k <- W_k - eta lambda sum_l a_kl (W_k - W_l), is linear, so W' = (I - eta lambda L) W with the graph's Laplacian L. It
is computed exactly, by stacking the factors of a client and of its neighbours, then compressed to the client's rank.

It acts on what the clients trained, all of it from the old values (Jacobi), and takes the place of an average: after
one over the same edges every difference would be zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.machine.late_imports import import_object
from pipelines.atlas.aggregation import Errors, Ranks, Update, check_tensors, compressed_sum
from pipelines.atlas.leading import Floats

ROUNDING = 1e-12


def adjacency(
    similarity: Floats,
    *,
    sharpness: float = 1.0,
    labels: Sequence[int] | None = None,
    nearest: int | None = None,
    shares: Sequence[float] | None = None,
) -> Floats:
    """Weights a_kl in [0, 1] from cosines: exp(-sharpness |f_k - f_l|^2) of the unit fingerprints, which is 2 - 2 cos.

    `labels`: no edges between clusters. `nearest`: only edges to so many nearest clients of either end. `shares`: each
    client pulls in proportion to its rows, a_kl = share_l * exp(...), which is not symmetric. The weights of
    each connected part are divided by its largest degree, the edge to itself included, and the diagonal is zero: up to
    eta * lambda = 1 every client becomes a weighted mean, and in a complete graph of equal clients a_kl = 1 / n (or the
    share of l), where that step is FedAvg.
    """
    weights = np.exp(-sharpness * np.clip(2.0 - 2.0 * np.asarray(similarity, dtype=np.float64), 0.0, None))
    weights = (weights + weights.T) / 2
    np.fill_diagonal(weights, 1.0)
    if labels is not None:
        weights *= np.equal.outer(labels, labels)
    if nearest is not None:
        weights *= _near(weights, nearest)
    if shares is not None:
        weights *= np.asarray(shares, dtype=np.float64)
    return _scaled(weights)


def random_adjacency(n: int, seed: int) -> Floats:
    """A complete graph whose weights are drawn uniformly, as MIRA's own experiments have it, scaled as `adjacency`."""
    upper = np.triu(np.random.default_rng(seed).uniform(size=(n, n)), 1)
    return _scaled(upper + upper.T + np.eye(n))


def _near(weights: Floats, nearest: int) -> NDArray[np.bool_]:
    """Which edges lead to one of the nearest clients of either end; ties go to the lower number."""
    n = len(weights)
    ranked = np.argsort(-(weights - 2.0 * np.eye(n)), axis=1, kind="stable")
    kept = np.eye(n, dtype=bool)
    np.put_along_axis(kept, ranked[:, : min(nearest, n - 1)], values=True, axis=1)
    found: NDArray[np.bool_] = kept | kept.T
    return found


def _scaled(weights: Floats) -> Floats:
    """Divide each connected part by its largest degree, and clear the diagonal."""
    find = import_object("scipy.sparse.csgraph:connected_components", needed_for="the graph of clients")
    count, parts = find(weights > 0, directed=False)
    for part in range(count):
        block = np.ix_(parts == part, parts == part)
        weights[block] /= weights[block].sum(axis=1).max()
    np.fill_diagonal(weights, 0.0)
    return weights


def largest_step(graph: Floats) -> float:
    """Below this eta * lambda the step is stable: 2 / the largest eigenvalue of the graph's Laplacian.

    Where the weights are not symmetric the eigenvalues may be complex: |1 - eta lambda mu| must stay below 1.
    """
    _check(graph)
    values = np.linalg.eigvals(_laplacian(graph))
    values = values[np.abs(values) > ROUNDING]
    return float((2.0 * values.real / np.abs(values) ** 2).min()) if len(values) else math.inf


def is_convex(graph: Floats, eta_lambda: float) -> bool:
    """Whether every client becomes a mean with weights of at least 0; else a stable step can overshoot."""
    _check(graph)
    return bool(eta_lambda * (graph.sum(axis=1) - np.diag(graph)).max() <= 1.0 + ROUNDING)


def step(
    updates: Sequence[Update],
    graph: Floats,
    eta_lambda: float,
    ranks: Sequence[Ranks],
    *,
    only: Collection[int] | None = None,
) -> tuple[list[Update], Errors]:
    """One step for the clients `only` (all), compressed to their ranks, and what the compression lost.

    The other clients keep what they have, and count as neighbours. A client without neighbours, and every client when
    eta * lambda is 0, keeps its update to the bit. Raises ValueError for a graph that is none, or an unstable step.
    """
    weights = _weights(graph, eta_lambda, len(updates))
    found, errors = list(updates), []
    for client in range(len(updates)) if only is None else sorted(only):
        found[client], error = compressed_sum(updates, weights[client].tolist(), ranks[client])
        errors.append(error)
    return found, Errors.joined(errors)


def step_dense(
    tensors: Sequence[Mapping[str, NDArray[Any]]],
    graph: Floats,
    eta_lambda: float,
    *,
    only: Collection[int] | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """The same step for whole tensors of equal shapes, such as heads: in fp64, given in their own type."""
    check_tensors(tensors)
    weights = _weights(graph, eta_lambda, len(tensors))
    found = [dict(one) for one in tensors]
    for client in range(len(tensors)) if only is None else sorted(only):
        used = np.flatnonzero(weights[client])
        if len(used) > 1:
            for name, own in tensors[client].items():
                parts = [np.multiply(tensors[other][name], weights[client, other], dtype=np.float64) for other in used]
                found[client][name] = np.sum(parts, axis=0).astype(own.dtype)
    return found


def _weights(graph: Floats, eta_lambda: float, clients: int) -> Floats:
    """I - eta lambda L, for a graph and a step that are sound."""
    _check(graph)
    if len(graph) != clients:
        raise ValueError(f"a graph of {len(graph)} clients, and {clients} updates")
    limit = largest_step(graph)
    if not 0.0 <= eta_lambda < limit:
        raise ValueError(
            f"eta * lambda = {eta_lambda:g} is not from 0 to below {limit:.4g}, 2 / the largest eigenvalue of the"
            " graph's Laplacian: the step would diverge"
        )
    weights: Floats = np.eye(clients) - eta_lambda * _laplacian(graph)
    return weights


def _laplacian(graph: Floats) -> Floats:
    edges = graph - np.diag(np.diag(graph))
    found: Floats = np.diag(edges.sum(axis=1)) - edges
    return found


def _check(graph: Floats) -> None:
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or not np.isfinite(graph).all():
        raise ValueError("a graph is a square matrix of finite weights")
    if (graph < 0).any():
        raise ValueError("the weights of a graph are at least 0")

"""Which clients have the same task: the similarity of their gradients or updates, and clusters of it.

The fingerprint of a client is the gradient of its loss with respect to B where all clients have the same A, the same
head and B = 0, over its own training rows; or the update of its first round. Each layer is scaled to norm 1, so that
no layer drowns the others. There is no fallback: a client without a gradient raises ValueError.

A fingerprint is not private: it is a linear function of the gradients of the client's rows. `projected` makes it
small, and with `noise` less exact; it gives no guarantee.

Clusters are of average linkage. Their number has the highest silhouette, and a permutation test asks first whether
there is any structure. Each client has two fingerprints, of two halves of its rows. If all clients drew their rows
from the same source, any two of the halves could be a client's: when halves are dealt to clients at random, the
whole search for clusters finds as high a silhouette as often as not. So the test is exact, however near to each other
gradients are by nature. It shows that clients differ beyond chance; with few rows a client it shows less.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.machine.late_imports import import_object
from pipelines.atlas.aggregation import Update
from pipelines.atlas.leading import Floats

FEWEST = 3
"""Clients from which on clusters are looked for."""
ROUNDING = 1e-12
LEVEL = 0.05
"""The p value above which there is no structure."""
BLOCK = 4096
"""Rows of a random projection that are drawn at a time."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clustering:
    """The cluster of each client, numbered in the order in which clients meet them.

    `silhouette` is that of the best number of clusters above one, and `p_value` how often chance reaches it;
    `structured` tells whether those clusters are kept, or all clients are one.
    """

    labels: tuple[int, ...]
    k: int
    silhouette: float
    p_value: float
    structured: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two clusterings agree: adjusted Rand index (0 by chance, 1 the same), normalized mutual information."""

    ari: float
    nmi: float


def similarity(gradients: Sequence[Mapping[str, NDArray[Any]]]) -> Floats:
    """The cosines between clients [n, n] of their gradients, each layer scaled to norm 1. Raises ValueError."""
    layers = _layers(gradients)
    inner = {}
    for name in layers:
        rows = np.stack([np.asarray(one[name], dtype=np.float64).ravel() for one in gradients])
        inner[name] = rows @ rows.T
    return _cosines(inner)


def similarity_of_updates(updates: Sequence[Update]) -> Floats:
    """The same of updates, from their factors, whose ranks may differ: <W_k, W_l> = tr((B_k^T B_l)(A_l A_k^T))."""
    inner = {}
    for name in _layers([{name: part.b for name, part in one.items()} for one in updates], shapes=False):
        a = np.concatenate([one[name].a for one in updates], dtype=np.float64)
        b = np.concatenate([one[name].b for one in updates], axis=1, dtype=np.float64)
        starts = np.cumsum([0, *(one[name].rank for one in updates[:-1])])
        products = (b.T @ b) * (a @ a.T)
        inner[name] = np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1)
    return _cosines(inner)


def _cosines(inner: Mapping[str, Floats]) -> Floats:
    """Cosines of the whole from inner products by layer; a layer without a gradient counts for nothing."""
    found = np.zeros_like(next(iter(inner.values())))
    for products in inner.values():
        norms = np.sqrt(np.clip(np.diag(products), 0.0, None))
        scales = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        found += products * np.outer(scales, scales)
    whole = np.sqrt(np.diag(found))
    if not whole.all():
        raise ValueError(f"client {int(np.argmin(whole))}: every layer's gradient is zero, so it has no fingerprint")
    cosines = found / np.outer(whole, whole)
    return _snapped(np.clip((cosines + cosines.T) / 2, -1.0, 1.0))


def _snapped(cosines: Floats) -> Floats:
    """Exactly 1 for equal fingerprints, which are a fault and can be told by that."""
    cosines[cosines > 1.0 - ROUNDING] = 1.0
    return cosines


def _layers(gradients: Sequence[Mapping[str, NDArray[Any]]], *, shapes: bool = True) -> list[str]:
    """The names of the layers. Raises ValueError with client and layer where the clients differ."""
    if not gradients or not gradients[0]:
        raise ValueError("client 0: there is no gradient")
    for client, one in enumerate(gradients):
        for name in {**gradients[0], **one}:
            if name not in one or name not in gradients[0]:
                raise ValueError(f"client {client}: layer {name!r} is missing, or not in client 0's gradient")
            if shapes and one[name].shape != gradients[0][name].shape:
                wanted = list(gradients[0][name].shape)
                raise ValueError(f"client {client}: layer {name!r} has {list(one[name].shape)}, not {wanted}")
            if not np.isfinite(one[name]).all():
                raise ValueError(f"client {client}: layer {name!r} holds numbers that are not finite")
    return list(gradients[0])


def projected(
    gradient: Mapping[str, NDArray[Any]], dimensions: int, seed: int, *, noise: float = 0.0, noise_seed: int = 0
) -> dict[str, Floats]:
    """A gradient, each layer scaled to norm 1, in `dimensions` random directions that seed and layer fix.

    So a client sends `dimensions` numbers a layer, whose inner products are on average those of its gradient. `noise`
    is the norm of the Gaussian noise that is added to each layer, on average.
    """
    found = {}
    draws_noise = np.random.default_rng(noise_seed)
    for name in _layers([gradient]):
        flat = np.asarray(gradient[name], dtype=np.float64).ravel()
        norm = float(np.linalg.norm(flat))
        draws = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big"))
        row = np.zeros(dimensions)
        for start in range(0, len(flat), BLOCK):
            part = flat[start : start + BLOCK]
            row += part @ draws.standard_normal((len(part), dimensions))
        row /= (norm or 1.0) * math.sqrt(dimensions)
        found[name] = row + draws_noise.standard_normal(dimensions) * noise / math.sqrt(dimensions)
    return found


def joined(halves: Floats, order: NDArray[np.int64] | None = None) -> Floats:
    """The cosines between clients [n, n] from those between their halves [2 n, 2 n], all first ones before the second.

    The fingerprint of a client is the sum of its halves. `order` deals the halves to the clients anew.
    """
    n = len(halves) // 2
    dealt = halves if order is None else halves[np.ix_(order, order)]
    sums = dealt[:n, :n] + dealt[:n, n:] + dealt[n:, :n] + dealt[n:, n:]
    norms = np.sqrt(np.clip(np.diag(sums), 0.0, None))
    scales = np.divide(1.0, norms, out=np.zeros(n), where=norms > ROUNDING)  # opposite halves tell nothing
    cosines = np.clip(sums * np.outer(scales, scales), -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    return _snapped(cosines)


def centred(gradients: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, Floats]]:
    """Gradients, each layer scaled to norm 1, without their mean: what all have in common tells nobody apart."""
    found: list[dict[str, Floats]] = [{} for _ in gradients]
    for name in _layers(gradients):
        rows = np.stack([np.asarray(one[name], dtype=np.float64) for one in gradients])
        norms = np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
        rows /= np.where(norms > 0, norms, 1.0).reshape(-1, *[1] * (rows.ndim - 1))
        for one, row in zip(found, rows - rows.mean(axis=0), strict=True):
            one[name] = row
    return found


def clusters(
    gradients: Sequence[Mapping[str, NDArray[Any]]], most: int, seed: int, permutations: int = 200
) -> Clustering:
    """The clusters of n clients, from 2 to `most` of them, or one if chance finds as good ones. Raises ValueError.

    `gradients` are those of the first halves of all clients and then of their second halves.
    """
    n = len(gradients) // 2
    if len(gradients) != 2 * n:
        raise ValueError(f"{len(gradients)} gradients: there are two of each client")
    if n < FEWEST or most < 2:
        return Clustering((0,) * n, 1, 0.0, 1.0, structured=False)
    halves = similarity(centred(gradients))
    labels, best = _best(1.0 - joined(halves), most)
    draws = np.random.default_rng(seed)
    found = [_best(1.0 - joined(halves, draws.permutation(2 * n)), most)[1] for _ in range(permutations)]
    p_value = (1 + sum(one >= best for one in found)) / (permutations + 1)  # the clients themselves are one of them
    if p_value > LEVEL or best <= 0.0:
        return Clustering((0,) * n, 1, best, p_value, structured=False)
    return Clustering(tuple(labels.tolist()), int(labels.max()) + 1, best, p_value, structured=True)


def _best(distances: Floats, most: int) -> tuple[Labels, float]:
    """The labels with the highest silhouette, and it; of equal ones the fewest clusters."""
    linkage = import_object("scipy.cluster.hierarchy:linkage", needed_for="clusters of clients")
    n = len(distances)
    merges = linkage(np.clip(distances[np.triu_indices(n, 1)], 0.0, None), "average")
    labels, best = np.zeros(n, dtype=np.int64), -1.0
    for k in range(2, min(most, n - 1) + 1):
        found = _cut(merges, n, k)
        score = silhouette(distances, found)
        if score > best:
            labels, best = found, score
    return labels, best


def _cut(merges: Floats, n: int, k: int) -> Labels:
    """The k clusters after the first n - k merges, numbered in the order in which clients meet them."""
    members = {client: [client] for client in range(n)}
    for number, (left, right) in enumerate(merges[: n - k, :2].astype(int).tolist()):
        members[n + number] = members.pop(left) + members.pop(right)
    labels = np.zeros(n, dtype=np.int64)
    for label, group in enumerate(sorted(members.values(), key=min)):
        labels[group] = label
    return labels


def silhouette(distances: Floats, labels: Labels) -> float:
    """The mean silhouette: (b - a) / max(a, b) of the mean distances to its own and the nearest other cluster; 0 for a
    cluster of one.
    """
    n = len(labels)
    groups = np.equal.outer(labels, np.arange(int(labels.max()) + 1)).astype(np.float64)
    sizes, own = groups.sum(axis=0), labels
    sums = distances @ groups
    inside = sums[np.arange(n), own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[np.arange(n), own] = np.inf
    outside = means.min(axis=1)
    largest = np.maximum(inside, outside)
    scores = np.divide(outside - inside, largest, out=np.zeros(n), where=(largest > 0) & (sizes[own] > 1))
    return float(scores.mean())


def agreement(labels: Sequence[int], truth: Sequence[int]) -> Agreement:
    """How well clusters agree with the true ones."""
    metrics = import_object("sklearn.metrics", needed_for="the agreement of clusters")
    ari = metrics.adjusted_rand_score(list(truth), list(labels))
    return Agreement(float(ari), float(metrics.normalized_mutual_info_score(list(truth), list(labels))))


def relabelled(new: Sequence[int], old: Sequence[int]) -> tuple[int, ...]:
    """The clusters `new` with the numbers of those of `old` that share the most clients with them (Hungarian).

    A cluster that matches none gets the lowest free number, in the order in which clients meet it.
    """
    match = import_object("scipy.optimize:linear_sum_assignment", needed_for="matching clusters")
    names, before = list(dict.fromkeys(new)), sorted(set(old))
    both = Counter(zip(new, old, strict=True))
    shared = np.array([[both[name, number] for number in before] for name in names])
    rows, columns = match(shared, maximize=True)
    known = {names[row]: before[column] for row, column in zip(rows, columns, strict=True) if shared[row, column]}
    free = (number for number in range(len(names) + len(before)) if number not in set(known.values()))
    for name in names:
        if name not in known:
            known[name] = next(free)
    return tuple(known[label] for label in new)


def importance(gradients: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, float]:
    """Layer -> its share of the squared norm of the gradients, summed over the clients; the shares sum to 1."""
    layers = _layers(gradients)
    squares = {
        name: math.fsum(float(np.square(one[name], dtype=np.float64).sum()) for one in gradients) for name in layers
    }
    total = math.fsum(squares.values())
    if not total > 0:
        raise ValueError("every gradient is zero, so no layer is important")
    return {name: square / total for name, square in squares.items()}

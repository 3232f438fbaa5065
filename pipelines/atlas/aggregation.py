"""Aggregation of LoRA updates of unequal ranks, from their factors: no matrix [out, in] is made where ranks are small.

The update of client k is B_k A_k, its scale alpha / rank folded into B. What is wanted is the weighted sum of the
updates, sum_k w_k B_k A_k, which the products of averaged factors are not. `stacked` is that sum exactly (FLoRA,
arXiv 2409.05976), and `compressed` its best approximation of a smaller rank (FlexLoRA, arXiv 2402.11505). `factor_mean`
(FedIT), `zero_padded` (HetLoRA, arXiv 2401.06432) and `nested_mean` (FFA-LoRA, arXiv 2403.12313) average factors;
`product_error` tells how far from the sum they are.

All of it is in fp64. An update that is not finite, or has other layers or shapes than the others, raises ValueError
with its client's number and the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.atlas.leading import Floats, Term, leading

Ranks = int | Mapping[str, int]
"""One rank, or one for each layer by name."""

ROUNDING = 1e-9
"""Difference of the sum of weights from 1 that is rounding."""
IDLE = 1e-14
"""A singular value below this share of the largest is rounding: nothing is lost when it is taken as zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """An update B A of one layer, with the scale folded into B: `a` is [rank, in], `b` is [out, rank]."""

    a: Floats
    b: Floats

    @property
    def rank(self) -> int:
        """Rows of A."""
        return len(self.a)

    @property
    def widths(self) -> tuple[int, int]:
        """The layer's (in, out)."""
        return self.a.shape[1], self.b.shape[0]

    def is_pair(self) -> bool:
        """Whether both are matrices of the same rank, at least 1."""
        return self.a.ndim == self.b.ndim == 2 and self.a.shape[0] == self.b.shape[1] > 0

    def product(self) -> Floats:
        """B A [out, in]."""
        return self.b @ self.a

    def norm(self) -> float:
        """The Frobenius norm of B A."""
        return float(np.linalg.norm(_core(self)))

    def first(self, rank: int) -> Factors:
        """The first `rank` rows of A and columns of B."""
        return Factors(self.a[:rank], self.b[:, :rank])

    def padded(self, rank: int) -> Factors:
        """The same product with zeros up to `rank`."""
        more = rank - self.rank
        return Factors(np.pad(self.a, ((0, more), (0, 0))), np.pad(self.b, ((0, 0), (0, more))))

    def extended(self, other: Factors, rank: int, *, with_b: bool) -> Factors:
        """With the rows of A that `other` has beyond this rank, up to `rank`, and its columns of B or zeros."""
        own = self.rank
        if own >= rank:
            return self
        b = other.b[:, own:rank]
        return Factors(np.concatenate([self.a, other.a[own:rank]]), np.concatenate([self.b, b if with_b else 0 * b], 1))


Update = Mapping[str, Factors]
"""Layer -> factors."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What an approximation lost: layer -> squared norm of the difference, and of what was approximated."""

    lost: Mapping[str, float]
    total: Mapping[str, float]

    @property
    def layers(self) -> dict[str, float]:
        """The relative error of each layer, in the Frobenius norm."""
        return {name: _relative(lost, self.total[name]) for name, lost in self.lost.items()}

    @property
    def whole(self) -> float:
        """The relative error of all layers together."""
        return _relative(math.fsum(self.lost.values()), math.fsum(self.total.values()))

    @staticmethod
    def joined(several: Sequence[Errors]) -> Errors:
        """The errors of several approximations as of one."""
        names = {name: None for one in several for name in one.total}
        lost = {name: math.fsum(one.lost.get(name, 0.0) for one in several) for name in names}
        return Errors(lost, {name: math.fsum(one.total.get(name, 0.0) for one in several) for name in names})


def _relative(lost: float, total: float) -> float:
    if total <= 0.0:
        return 0.0 if lost <= 0.0 else math.inf
    return math.sqrt(max(lost, 0.0) / total)


def check(update: Update, client: int, widths: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError unless an update has finite factors for just the layers of `widths`, layer -> (in, out)."""
    if not update:
        raise ValueError(f"client {client}: the update is empty")
    for name in {**widths, **update}:
        if name not in update or name not in widths:
            raise ValueError(f"client {client}: layer {name!r} is {'missing' if name in widths else 'not adapted'}")
        part, (width_in, width_out) = update[name], widths[name]
        shapes = f"A {list(part.a.shape)}, B {list(part.b.shape)}"
        if not part.is_pair():
            raise ValueError(f"client {client}: layer {name!r} has no two factors of one rank: {shapes}")
        if part.widths != (width_in, width_out):
            raise ValueError(f"client {client}: layer {name!r} has {shapes}, not {width_in} in, {width_out} out")
        if not (is_finite(part.a) and is_finite(part.b)):
            raise ValueError(f"client {client}: layer {name!r} holds numbers that are not finite")


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; their sum is not if one is not, and is faster to compute."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.float64))) or bool(np.isfinite(array).all())


def shares(counts: Sequence[float]) -> list[float]:
    """Weights that sum to 1, proportional to `counts` (rows of data). Raises ValueError."""
    total = math.fsum(counts)
    if not all(math.isfinite(count) and count >= 0 for count in counts) or not total > 0:
        raise ValueError("the clients have no rows of data")
    return [count / total for count in counts]


def stacked(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """The sum of weight times update, exactly: its rank is the sum of the ranks whose weight is not zero.

    The weights may be any finite numbers. With one update of weight 1 the result is that update, to the bit.
    """
    used = _used(updates, weights)
    return {name: _stacked(_terms(name, used)) for name in updates[0]}


def compressed_sum(updates: Sequence[Update], weights: Sequence[float], rank: Ranks) -> tuple[Update, Errors]:
    """`compressed` of `stacked`, one layer after another: the stacked factors of all layers are never there at once."""
    used, found, lost, total = _used(updates, weights), {}, {}, {}
    for name in updates[0]:
        found[name], lost[name], total[name] = _compressed(_terms(name, used), rank_of(rank, name))
    return found, Errors(lost, total)


def _used(updates: Sequence[Update], weights: Sequence[float]) -> list[tuple[Update, float]]:
    """The updates whose weight is not zero; one of weight zero if there are none."""
    _check_all(updates, weights)
    used = [(update, weight) for update, weight in zip(updates, weights, strict=True) if weight]
    return used or [(updates[0], 0.0)]


def _terms(name: str, used: Sequence[tuple[Update, float]]) -> list[Term]:
    return [(weight, update[name].b, update[name].a) for update, weight in used]


def _stacked(terms: Sequence[Term]) -> Factors:
    """The factors of one layer side by side, the weights in B."""
    b = np.concatenate([weight * b for weight, b, _ in terms], axis=1, dtype=np.float64)
    return Factors(np.concatenate([a for _, _, a in terms], dtype=np.float64), b)


def compressed(update: Update, rank: Ranks) -> tuple[Update, Errors]:
    """The best approximation of `rank` or less by layer, and what it loses (Eckart and Young).

    A layer whose rank is no larger stays as it is. B = U sqrt(S) and A = sqrt(S) V^T, so that both learn alike. A
    direction without an update gets a row of A as at the start of a training and zeros in B: it can still learn.
    """
    found, lost, total = {}, {}, {}
    for name, part in update.items():
        found[name], lost[name], total[name] = _compressed([(1.0, part.b, part.a)], rank_of(rank, name))
    return found, Errors(lost, total)


def rank_of(ranks: Ranks, name: str) -> int:
    """The rank of a layer. Raises ValueError for one below 1."""
    rank = ranks if isinstance(ranks, int) else ranks[name]
    if rank < 1:
        raise ValueError(f"layer {name!r}: a rank is at least 1, not {rank}")
    return rank


def _compressed(terms: Sequence[Term], rank: int) -> tuple[Factors, float, float]:
    """The approximation of the sum of one layer, the squared norms of what it loses and of the sum."""
    (_, b, a), stack = terms[0], sum(len(a) for _, _, a in terms)
    if stack <= rank:
        part = _stacked(terms)
        return part, 0.0, part.norm() ** 2
    found = leading(terms, rank) if 2 * stack > min(len(b), a.shape[1]) else None
    if found:
        roots = np.sqrt(found.values)
        return Factors(roots[:, None] * found.right, found.left * roots), found.lost, found.total
    left, values, right = _decomposed(_stacked(terms))
    squares = values**2
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    roots, idle = np.sqrt(values), values <= IDLE * values[0]
    roots[idle] = 0.0
    scales = np.where(idle, 1.0 / math.sqrt(3.0), roots)  # the norm of a row that is uniform within 1 / sqrt(in)
    return Factors(scales[:, None] * right, left * roots), float(squares[rank:].sum()), float(squares.sum())


def _decomposed(part: Factors) -> tuple[Floats, Floats, Floats]:
    """U, S, V^T of B A: of a small matrix where the rank is smaller than the layer."""
    if part.rank >= min(part.widths):
        left, values, right = np.linalg.svd(part.product(), full_matrices=False)
        return left, values, right
    basis_b, of_b = np.linalg.qr(part.b)
    basis_a, of_a = np.linalg.qr(part.a.T)
    left, values, right = np.linalg.svd(of_b @ of_a.T, full_matrices=False)
    return basis_b @ left, values, right @ basis_a.T


def zero_padded(updates: Sequence[Update], weights: Sequence[float], ranks: Sequence[Ranks]) -> list[Update]:
    """HetLoRA without its pruning: pad the factors to the largest rank, average A and B, cut to each client's rank."""
    _check_mean(updates, weights)
    largest = {name: max(update[name].rank for update in updates) for name in updates[0]}
    padded = [{name: part.padded(largest[name]) for name, part in update.items()} for update in updates]
    mean = factor_mean(padded, weights)
    return [{name: part.first(rank_of(rank, name)) for name, part in mean.items()} for rank in ranks]


def factor_mean(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """FedIT: the means of A and of B, whose product is not the mean of the products. The ranks must be equal."""
    _check_mean(updates, weights)
    for client, update in enumerate(updates):
        for name, part in update.items():
            if part.rank != updates[0][name].rank:
                raise ValueError(f"client {client}: layer {name!r} has rank {part.rank}, not {updates[0][name].rank}")
    return {
        name: Factors(
            _mean([update[name].a for update in updates], weights),
            _mean([update[name].b for update in updates], weights),
        )
        for name in updates[0]
    }


def nested_mean(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """FFA-LoRA for unequal ranks: every A is the first rows of one common A, so the mean of the padded B is exact.

    The result has the largest rank; `Factors.first` cuts it to a client's. Raises ValueError for another A.
    """
    _check_mean(updates, weights)
    found = {}
    for name in updates[0]:
        common = max((update[name] for update in updates), key=lambda part: part.rank)
        for client, update in enumerate(updates):
            if not np.array_equal(update[name].a, common.a[: update[name].rank]):
                raise ValueError(f"client {client}: layer {name!r} has an A that is not the first rows of the common A")
        b = _mean([update[name].padded(common.rank).b for update in updates], weights)
        found[name] = Factors(np.asarray(common.a, dtype=np.float64), b)
    return found


def mean(tensors: Sequence[Mapping[str, NDArray[Any]]], weights: Sequence[float]) -> dict[str, NDArray[Any]]:
    """The weighted mean of whole tensors (heads, or all parameters), summed in fp64 and given in their own type."""
    _check_weights(len(tensors), weights)
    check_tensors(tensors)
    return {
        name: _mean([one[name] for one in tensors], weights).astype(first.dtype, copy=False)
        for name, first in tensors[0].items()
    }


def check_tensors(tensors: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Raise ValueError with client and tensor unless all have the same tensors, of equal shapes and finite."""
    for client, one in enumerate(tensors):
        for name in {**tensors[0], **one}:
            if name not in one or name not in tensors[0] or one[name].shape != tensors[0][name].shape:
                raise ValueError(f"client {client}: tensor {name!r} is missing, or has another shape than client 0's")
            if not is_finite(one[name]):
                raise ValueError(f"client {client}: tensor {name!r} holds numbers that are not finite")


def norm_weights(updates: Sequence[Update], weights: Sequence[float]) -> list[float]:
    """HetLoRA's weights: each multiplied by the Frobenius norm of its client's update, then scaled to sum to 1.

    Where no update differs from zero the weights stay as they are.
    """
    _check_mean(updates, weights)
    norms = [math.sqrt(math.fsum(part.norm() ** 2 for part in update.values())) for update in updates]
    products = [weight * norm for weight, norm in zip(weights, norms, strict=True)]
    return shares(products) if math.fsum(products) > 0 else list(weights)


def product_error(update: Update, updates: Sequence[Update], weights: Sequence[float]) -> float:
    """The relative Frobenius error of `update` as the weighted sum of `updates`, all layers together."""
    _check_all([update, *updates], [1.0, *weights])
    wanted = stacked(updates, weights)
    difference = stacked([update, wanted], [1.0, -1.0])
    lost = {name: part.norm() ** 2 for name, part in difference.items()}
    return Errors(lost, {name: part.norm() ** 2 for name, part in wanted.items()}).whole


def _core(part: Factors) -> Floats:
    """A small matrix with the singular values of B A; B A itself where the rank is no smaller than the layer."""
    if part.rank >= min(part.widths):
        return part.product()
    core: Floats = np.linalg.qr(part.b)[1] @ np.linalg.qr(part.a.T)[1].T
    return core


def _mean(arrays: Sequence[NDArray[Any]], weights: Sequence[float]) -> Floats:
    found = np.zeros(arrays[0].shape)
    for array, weight in zip(arrays, weights, strict=True):
        found += np.multiply(array, weight, dtype=np.float64)
    return found


def _check_mean(updates: Sequence[Update], weights: Sequence[float]) -> None:
    _check_weights(len(updates), weights)
    _check_all(updates, weights)


def _check_weights(clients: int, weights: Sequence[float]) -> None:
    if not clients or len(weights) != clients:
        raise ValueError(f"{clients} clients, and {len(weights)} weights")
    if not all(weight >= 0 for weight in weights) or abs(math.fsum(weights) - 1.0) > ROUNDING:
        raise ValueError("the weights of a mean are at least 0 and sum to 1")


def _check_all(updates: Sequence[Update], weights: Sequence[float]) -> None:
    if not updates or len(weights) != len(updates):
        raise ValueError(f"{len(updates)} updates, and {len(weights)} weights")
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError("a weight is not finite")
    widths = {name: part.widths if part.is_pair() else (0, 0) for name, part in updates[0].items()}
    for client, update in enumerate(updates):
        check(update, client, widths)

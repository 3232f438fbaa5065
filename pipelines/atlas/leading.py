"""The largest singular values of a product B A of many columns, without a whole singular value decomposition.

The sum of 50 updates of rank 16 has a rank of 800, of which 16 are kept. The subspace of these is found by block
Krylov iterations (Musco and Musco, arXiv 1504.05477) in fp32, and the values within it in fp64: the energy that the
approximation keeps is off by the square of the subspace's error only. Where the iterations do not converge, because
the values hardly fall, there is no answer, and the whole decomposition has to be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

EXTRA = 8
"""Directions beside those that are wanted."""
STEPS = 6
CONVERGED = 1e-4
"""The largest residual |M v - s u| / s_1 of what is kept; the energy is then off by about its square."""
LEAST = 1e-15
"""The largest number of the product is above this and below its inverse, so that squares are in the range of fp32."""
EXACT = 1e-8
"""A share of the energy below this, which is lost, is not told by fp32."""

Term = tuple[float, Floats, Floats]
"""Weight, B [out, k] and A [k, in] of weight * B A, of which there is a sum."""


@dataclass(frozen=True, slots=True, eq=False)
class Leading:
    """U [out, rank], S [rank] and V^T [rank, in] of the largest singular values, and the squared norms of the whole
    product and of what they leave.
    """

    left: Floats
    values: Floats
    right: Floats
    lost: float
    total: float


def leading(terms: Sequence[Term], rank: int) -> Leading | None:
    """The `rank` largest singular values of a sum, or None where they cannot be found or told so."""
    if len(terms[0][1]) > terms[0][2].shape[1]:  # the basis is of the shorter side
        found = leading([(weight, a.T, b.T) for weight, b, a in terms], rank)
        return found and Leading(found.right.T, found.values, found.left.T, found.lost, found.total)
    whole = _whole(terms)
    if not LEAST < max(float(whole.max()), -float(whole.min())) < 1 / LEAST:
        return None
    basis = _basis(whole, rank)
    if basis is None:
        return None
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    core = np.zeros((rank, whole.shape[1]))
    for weight, b, a in terms:
        core += (weight * (basis.T @ b)) @ a
    left, values, right = np.linalg.svd(core, full_matrices=False)
    left = basis @ left
    whole -= (left * values).astype(np.float32) @ right.astype(np.float32)
    lost, kept = float(np.vdot(whole, whole)), float(values @ values)
    return Leading(left, values, right, lost, kept + lost) if lost > EXACT * kept else None


def _whole(terms: Sequence[Term]) -> Singles:
    """The sum [out, in], not finite where fp32 has no such numbers."""
    columns = sum(b.shape[1] for _, b, _ in terms)
    left, right = (
        np.empty((len(terms[0][1]), columns), np.float32),
        np.empty((columns, terms[0][2].shape[1]), np.float32),
    )
    end = 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for weight, b, a in terms:
            here = slice(end, end := end + b.shape[1])
            left[:, here] = b
            left[:, here] *= np.float32(weight)
            right[here] = a
        found: Singles = left @ right
    return found


def _basis(whole: Singles, rank: int) -> Singles | None:
    """The leading left singular vectors [out, rank]."""
    width = rank + EXTRA
    if width * 2 > len(whole):
        return None
    draws = np.random.default_rng(0).standard_normal((whole.shape[1], width), dtype=np.float32)
    block = _orthonormal(whole @ draws)
    left, right = block, whole.T @ block
    for _ in range(STEPS):
        block = whole @ right[:, -width:]
        block = _orthonormal(block - left @ (left.T @ block))
        block = _orthonormal(block - left @ (left.T @ block))  # once leaves the rounding of a large difference
        left, right = np.hstack([left, block]), np.hstack([right, whole.T @ block])
        energies, mix = np.linalg.eigh(right.T @ right)
        values, mix = np.sqrt(np.maximum(energies[::-1][:rank], 0.0)), mix[:, ::-1][:, :rank]
        found: Singles = left @ mix
        residual = np.linalg.norm(whole @ (right @ mix) - found * values**2, axis=0)
        if (residual <= CONVERGED * values * values[0]).all():
            return found
    return None


def _orthonormal(block: Singles) -> Singles:
    basis: Singles = np.linalg.qr(block)[0]
    return basis

"""The largest singular values of a product B A of many columns, without a whole singular value decomposition.

The sum of 50 updates of rank 16 has a rank of 800, of which 16 are kept. The subspace of these is found by block
Krylov iterations (Musco and Musco, arXiv 1504.05477) in fp32, as updates are sent: the energy that the approximation
keeps is off by the square of the subspace's error only. Where the iterations do not converge, because the values hardly
fall, or the terms cancel, there is no answer, and the whole decomposition has to be computed.
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
"""The norm of the product is above this and below its inverse, so that squares are in the range of fp32."""
BLOCK = 64
"""Rows that are read at once."""
CANCELLED = 1e4
"""Where the norms of the factors are so many times that of the sum, terms cancel: fp32 would not do."""
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
    whole, uncancelled = _whole(terms)
    basis = _basis(whole, uncancelled, rank)
    if basis is None:
        return None
    basis = np.linalg.qr(basis.astype(np.float64))[0]
    core = (basis.astype(np.float32).T @ whole).astype(np.float64)
    turn, values, right = np.linalg.svd(core, full_matrices=False)
    left = basis @ turn
    lost, kept = _energy_beside(whole, (left * values).astype(np.float32), right.astype(np.float32)), values @ values
    return Leading(left, values, right, lost, float(kept + lost)) if lost > EXACT * kept else None


def _whole(terms: Sequence[Term]) -> tuple[Singles, float]:
    """The sum [out, in], not finite where fp32 has no such numbers, and a bound of its norm if no terms cancel."""
    left = np.concatenate([b for _, b, _ in terms], axis=1, dtype=np.float32, casting="same_kind")
    right = np.concatenate([a for _, _, a in terms], dtype=np.float32, casting="same_kind")
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        weights = np.array([weight for weight, _, _ in terms], np.float32)
        left *= np.repeat(weights, [b.shape[1] for _, b, _ in terms])
        found: Singles = left @ right
        return found, float(np.linalg.norm(left)) * float(np.linalg.norm(right))


def _energy_beside(whole: Singles, left: Singles, right: Singles) -> float:
    """The squared norm of `whole` minus left [out, rank] times right, in blocks: a cache holds them, and a sum over few
    numbers in fp32 is exact to more digits.
    """
    lost = 0.0
    for start in range(0, len(whole), BLOCK):
        rest = (whole[start : start + BLOCK] - left[start : start + BLOCK] @ right).ravel()
        lost += float(rest @ rest)
    return lost


def _basis(whole: Singles, uncancelled: float, rank: int) -> Singles | None:
    """The leading left singular vectors [out, rank]."""
    width = rank + EXTRA
    if width * 2 > len(whole):
        return None
    draws = np.random.default_rng(0).standard_normal((whole.shape[1], width), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        block = whole @ draws
        size = float(np.linalg.norm(block)) / width**0.5  # about the norm of the whole
    if not (LEAST < size < 1 / LEAST and uncancelled < CANCELLED * size):
        return None
    left = block = np.linalg.qr(block)[0]
    right = whole.T @ block
    images = whole @ right
    for _ in range(STEPS):
        block = images[:, -width:]
        for _ in range(2):  # once leaves the rounding of a large difference
            block = np.linalg.qr(block - left @ (left.T @ block))[0]
        left, right = np.hstack([left, block]), np.hstack([right, whole.T @ block])
        images = np.hstack([images, whole @ right[:, -width:]])
        energies, mix = np.linalg.eigh(right.T @ right)
        values, mix = np.sqrt(np.maximum(energies[::-1][:rank], 0.0)), mix[:, ::-1][:, :rank]
        found: Singles = left @ mix
        residual = np.linalg.norm(images @ mix - found * values**2, axis=0)
        if (residual <= CONVERGED * values * values[0]).all():
            return found
    return None

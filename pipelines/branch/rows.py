"""Embeddings as rows whose products are exact, so that a selection is the same on every machine.

A sum of floating-point products depends on its order, and that on the library and the processor. So the numbers of a
row are whole multiples of 2^-25: a product of two is a multiple of 2^-50, and every partial sum of a cosine, in
whatever order, needs at most 53 bits: nothing is rounded, and what is equal is equal everywhere. A cosine is off by
about 1e-8 for that, less than single precision has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import BadData

Rows = NDArray[np.float64]
"""n x d: unit vectors on the grid."""

GRID = 2.0**25
MOST_DIMENSIONS = 65_536


def unit_rows(vectors: ArrayLike, dimensions: int | None = None) -> Rows:
    """The vectors as unit rows on the grid; no vectors are 0 x `dimensions`.

    Raises BadData for a vector that is not finite or is zero, and for another number of dimensions than `dimensions`
    (None: any) or than the other vectors have.
    """
    rows = _array(vectors, dimensions)
    if not len(rows):
        return rows
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    if not (np.isfinite(largest).all() and largest.all()):
        raise BadData("an embedding is zero or holds what is no finite number")
    exponents = np.frexp(largest)[1] + math.ceil(math.log2(rows.shape[1]) / 2)  # then no row is longer than 1
    rows *= np.ldexp(1.0, -exponents)[:, None]  # by a power of two, without rounding
    for _ in range(2):  # the length of what has the length 1 already is more exact
        steps = _on_grid(rows)
        rows /= np.sqrt(np.einsum("ij,ij->i", steps, steps))[:, None]
    return _on_grid(rows)


def _on_grid(rows: Rows) -> Rows:
    steps = rows * GRID
    np.rint(steps, out=steps)
    steps /= GRID
    return steps


def _array(vectors: ArrayLike, dimensions: int | None) -> Rows:
    try:
        rows = np.array(vectors, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise BadData("the embeddings have different numbers of dimensions") from error
    if rows.size == 0:
        return rows.reshape(0, dimensions or rows.shape[-1])
    if rows.ndim != 2 or rows.shape[1] > MOST_DIMENSIONS:
        raise BadData(f"embeddings have up to {MOST_DIMENSIONS:,} numbers each, these have the shape {rows.shape}")
    refuse_other_dimensions(rows, dimensions)
    return rows


def refuse_other_dimensions(rows: Rows, dimensions: int | None) -> None:
    """Raise BadData when the rows have another number of dimensions."""
    if dimensions is not None and rows.shape[1] != dimensions:
        raise BadData(
            f"embeddings of {rows.shape[1]:,} dimensions beside those of {dimensions:,} that are kept",
            hint="vectors of one run come from one embedding model: name the model that the run began with",
        )


def cosines(rows: Rows, others: Rows) -> Rows:
    """The n x m exact cosines, clipped to -1 .. 1. Raises BadData for different dimensions."""
    if not (len(rows) and len(others)):
        return np.zeros((len(rows), len(others)))
    refuse_other_dimensions(rows, others.shape[1])
    return np.clip(rows @ others.T, -1.0, 1.0)


def nearest(rows: Rows, kept: Sequence[Sequence[float]] | Rows) -> tuple[list[int], list[float]]:
    """For each row the place of the most similar one of `kept`, the first of equals, and their cosine.

    (-1, -1.0) where nothing is kept. One product for all of them. Raises BadData for different dimensions.
    """
    products = cosines(rows, np.asarray(kept, dtype=np.float64))
    if not products.shape[1]:
        return [-1] * len(rows), [-1.0] * len(rows)
    places = products.argmax(axis=1)
    return places.tolist(), products[np.arange(len(rows)), places].tolist()

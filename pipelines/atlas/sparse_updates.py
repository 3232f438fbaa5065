"""Top-k on the wire: of each tensor the entries that changed most are sent, the others are remembered and sent later.

What was not sent is added to the next change of the same tensor (error feedback; Stich and others 2018, arXiv
1809.07599). That needs a tensor whose entries mean the same in every round, as those of a head do. Factors that are
computed anew in each round, by an SVD or from a fresh adapter, have other rows each time: of them nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.atlas.client_models import ClientModel, Part, model_of, saved, tensors_of

Tensors = Mapping[str, NDArray[np.float64]]
INDEX = ".at"
"""What the name of the indices of a tensor's entries ends with."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """A message, the model that its reader makes of it, and what it leaves for the next one."""

    data: bytes
    received: ClientModel
    rest: ClientModel


def sparse(
    trained: ClientModel, start: ClientModel, rest: ClientModel | None, share: float, part: Part, *, keeps: bool
) -> Sparse:
    """Send the `share` of each tensor's entries in which `trained`, with what earlier messages left, differs most from
    `start`, which the reader has.

    `keeps`: what is left of factors goes into the next message; what is left of the head always does.
    """
    sent: dict[str, NDArray[np.generic]] = {}
    begun = tensors_of(start, "all", np.float64)
    received = {name: np.array(value, np.float64) for name, value in begun.items()}
    left: dict[str, NDArray[np.float64]] = {name: np.zeros(value.shape) for name, value in begun.items()}
    earlier = tensors_of(rest, "all", np.float64) if rest else {}
    for name, value in tensors_of(trained, part, np.float32).items():
        change = np.asarray(value - begun[name], np.float32).ravel()
        if name in earlier:
            change += np.asarray(earlier[name], np.float32).ravel()
        at = largest(change, share)
        sent |= {name: change[at], f"{name}{INDEX}": at}
        received[name].ravel()[at] += change[at]
        if keeps or name.startswith("head."):
            change[at] = 0
            left[name] = change.astype(np.float64).reshape(value.shape)
    return Sparse(saved(sent), model_of(received), model_of(left))


def largest(values: NDArray[np.float32], share: float) -> NDArray[np.int32]:
    """The places of the `share` of the values that are largest by absolute value, one at least, in ascending order; of
    equal ones the first.
    """
    count = max(1, math.ceil(share * values.size - 1e-9))
    return np.sort(np.argsort(-np.abs(values), kind="stable")[:count]).astype(np.int32)

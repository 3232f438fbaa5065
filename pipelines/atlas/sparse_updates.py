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
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from hybrid.errors import BadData
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
    left = {name: np.zeros(value.shape) for name, value in begun.items() if keeps or name.startswith("head.")}
    earlier = tensors_of(rest, "all", np.float32) if rest else {}
    for name, value in tensors_of(trained, part, np.float32).items():
        change = np.asarray(value - begun[name], np.float32).ravel()
        if name in left and name in earlier:
            change += earlier[name].ravel()
        at = largest(change, share)
        sent |= {name: change[at], f"{name}{INDEX}": at}
        if name in left:
            change[at] = 0
            left[name] = change.astype(np.float64).reshape(value.shape)
    data = saved(sent)
    return Sparse(data, received(data, start, part), model_of(left))


def received(data: bytes, start: ClientModel, part: Part) -> ClientModel:
    """The model that the reader of a message makes of `start`; the message is untrusted. Raises BadData."""
    found = tensors_of(start, "all", np.float64)
    names = tensors_of(start, part, np.float64).keys()
    try:
        given = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"a sparse update: {error!s:.200}") from error
    if given.keys() != {f"{name}{end}" for name in names for end in ("", INDEX)}:
        raise BadData("a sparse update: it has other tensors than the model")
    for name in names:
        change, at = given[name], given[f"{name}{INDEX}"]
        if change.dtype != np.float32 or at.dtype != np.int32 or change.ndim != 1 or change.shape != at.shape:
            raise BadData(f"a sparse update: {name} has no entries in fp32 with a place for each")
        if not np.isfinite(change).all():
            raise BadData(f"a sparse update: {name} holds numbers that are not finite")
        if not len(at) or at[0] < 0 or at[-1] >= found[name].size or (at[1:] <= at[:-1]).any():
            raise BadData(f"a sparse update: {name} has places outside of the tensor, or not in ascending order")
        whole = found[name].flatten()
        whole[at] += change
        found[name] = whole.reshape(found[name].shape)
    return model_of(found)


def fits(rest: ClientModel, model: ClientModel, *, keeps: bool) -> bool:
    """Whether `rest` is what a message of a client with this model may leave."""
    shapes = {name: value.shape for name, value in tensors_of(model, "all", np.float64).items()}
    expected = {name: shape for name, shape in shapes.items() if keeps or name.startswith("head.")}
    return expected == {name: value.shape for name, value in tensors_of(rest, "all", np.float64).items()}


def largest(values: NDArray[np.float32], share: float) -> NDArray[np.int32]:
    """The places of the `share` of the values that are largest by absolute value, one at least, in ascending order; of
    equal ones the first.
    """
    count = max(1, math.ceil(share * values.size - 1e-9))
    return np.sort(np.argsort(-np.abs(values), kind="stable")[:count]).astype(np.int32)

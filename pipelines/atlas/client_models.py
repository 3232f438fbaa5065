"""The model of a client, which is an adapter's update and a head, and its form on the wire and in a state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from hybrid.canonical import Json, decode
from hybrid.errors import BadData
from pipelines.atlas.aggregation import Factors, Update

Head = Mapping[str, NDArray[np.float64]]
Part = Literal["all", "b"]
"""What of an adapter is sent: both matrices, or B alone where A is the same everywhere and never changes."""
INT8 = 127.0
HALF = float(np.finfo(np.float16).max)
ON_WIRE = frozenset((np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.int8)))
"""Number formats of a message. A wider one has numbers whose products are infinite, which no SVD takes."""
MOST_NORM = 1e4
"""Largest Frobenius norm of each tensor that a client sends. Training ends far below: a fresh A has the square root of
a third of its rank, a B begins as zero. From an average with a much larger one nobody could go on in fp32.
"""
LONGEST_HEADER = 16 * 1024 * 1024
"""Bytes of the header of a message."""


@dataclass(frozen=True)
class ClientModel:
    """The update B A of every adapted layer, its scale in B, and the weights of the head by name."""

    update: Update
    head: Head

    @cached_property
    def digest(self) -> str:
        """The sha256 of the values as they train: float32."""
        return hashlib.sha256(saved(tensors_of(self, "all", np.float32))).hexdigest()

    @property
    def finite(self) -> bool:
        """Whether all of it are finite numbers."""
        return all(np.isfinite(value).all() for value in tensors_of(self, "all", np.float64).values())

    @property
    def bounded(self) -> bool:
        """Whether no tensor of it is larger than training makes one."""
        return all(np.linalg.norm(value) <= MOST_NORM for value in tensors_of(self, "all", np.float64).values())

    def first(self, ranks: Mapping[str, int]) -> ClientModel:
        """With the first ranks of each layer."""
        return ClientModel({name: part.first(ranks[name]) for name, part in self.update.items()}, self.head)

    def to_wire(self, kind: str, part: Part = "all", note: str = "") -> bytes:
        """The safetensors file that is sent, in the number format `kind`: fp32, fp16, or int8 with a scale a row.

        A tensor with a number that fp16 does not have is sent in fp32. `note` is what it says beside the model.
        """
        about = {"note": note} if note else None
        whole = tensors_of(self, part, np.float32)
        if kind == "int8":
            tensors: dict[str, NDArray[np.generic]] = {}
            for name, value in whole.items():
                tensors |= _quantized(name, value)
            return saved(tensors, about)
        return saved({name: _halved(value) for name, value in whole.items()} if kind == "fp16" else whole, about)

    def from_wire(self, data: bytes) -> ClientModel:
        """The model in a file that was sent, untrusted: of the names and shapes of this one, whose A it keeps where
        none was sent. Raises BadData.
        """
        return _read(data, self)

    @classmethod
    def shaped(cls, layers: Mapping[str, tuple[int, int]], ranks: Mapping[str, int], head: Head) -> ClientModel:
        """A model of zeros for `from_wire`: of these layers, name -> (in, out), their ranks, and a head like `head`."""
        update = {
            name: Factors(np.zeros((ranks[name], width_in)), np.zeros((width_out, ranks[name])))
            for name, (width_in, width_out) in layers.items()
        }
        return cls(update, head)


def note_of(data: bytes) -> Json:
    """The JSON that a message on the wire says beside its model, untrusted; None without any. Raises BadData."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = decode(data[8 : 8 + min(length, LONGEST_HEADER)], what="a message", limit=LONGEST_HEADER)
        note = header.get("__metadata__", {}).get("note")
        return None if note is None else decode(note, what="a message", limit=LONGEST_HEADER)
    except (AttributeError, TypeError) as error:
        raise BadData(f"a message: {error!s:.200}") from error


def packed(models: Mapping[str, ClientModel], about: Mapping[str, object]) -> bytes:
    """Models by name and what is to be known of them, as one safetensors file in float64: nothing is rounded."""
    tensors = {
        f"{name}:{key}": value
        for name, model in models.items()
        for key, value in tensors_of(model, "all", np.float64).items()
    }
    return saved(tensors, {"about": json.dumps(about, sort_keys=True)})


def unpacked(data: bytes, what: str) -> tuple[dict[str, ClientModel], Mapping[str, object]]:
    """What `packed` made, untrusted. Raises BadData."""
    try:
        tensors = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header.get("__metadata__", {})["about"])
        parts: dict[str, dict[str, NDArray[np.float64]]] = {}
        for key, value in tensors.items():
            name, _, rest = key.partition(":")
            if value.dtype != np.float64 or not np.isfinite(value).all():
                raise ValueError(f"{key:.100} is not of finite 64-bit numbers")
            parts.setdefault(name, {})[rest] = value
        return {name: model_of(part) for name, part in parts.items()}, dict(about)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadData(f"{what}: {type(error).__name__}: {error!s:.200}") from error


def saved(tensors: Mapping[str, NDArray[np.generic]], about: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file."""
    data: bytes = safetensors.numpy.save(dict(tensors), about)
    return data


def tensors_of(model: ClientModel, part: Part, dtype: type) -> dict[str, NDArray[Any]]:
    """The tensors of a model by the names of the wire: `LAYER.A`, `LAYER.B`, and `head.NAME`."""
    named = {f"{layer}.B": one.b for layer, one in model.update.items()}
    if part == "all":
        named |= {f"{layer}.A": one.a for layer, one in model.update.items()}
    named |= {f"head.{name}": value for name, value in model.head.items()}
    return {name: np.ascontiguousarray(named[name], dtype) for name in sorted(named)}


def _halved(value: NDArray[np.float32]) -> NDArray[np.generic]:
    """A tensor in float16; as it is where one of its numbers would become infinite there, and end what reads it."""
    return value if np.abs(value).max(initial=0.0) > HALF else value.astype(np.float16)


def _quantized(name: str, value: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """A tensor as int8 with a float32 scale for each row, the largest value of the row being 127."""
    rows = value.reshape(value.shape[0], -1) if value.ndim else value.reshape(1, 1)
    scale = (np.abs(rows).max(axis=1, keepdims=True) / INT8).astype(np.float32)
    whole = np.rint(rows / np.where(scale > 0, scale, 1)).astype(np.int8).reshape(value.shape)
    return {name: whole, f"{name}.scale": scale[:, 0]}


def _read(data: bytes, like: ClientModel) -> ClientModel:
    expected = tensors_of(like, "all", np.float64)
    try:
        given = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"a client's model: {error!s:.200}") from error
    found = {}
    for name, shaped in expected.items():
        value = given.get(name)
        if value is None and name.endswith(".A"):
            value = shaped
        if value is None or value.shape != shaped.shape:
            raise BadData(f"a client's model: {name} is missing or of another shape")
        if value is not shaped and value.dtype not in ON_WIRE:
            raise BadData(f"a client's model: {name} is of {value.dtype}, not of a format of the wire")
        wide = value.astype(np.float64)
        if value.dtype == np.int8:
            scale = given.get(f"{name}.scale")
            if scale is None or scale.shape != value.shape[:1] or scale.dtype != np.float32:
                raise BadData(f"a client's model: {name} has no scale")
            wide *= scale.astype(np.float64).reshape(-1, *[1] * (value.ndim - 1))
        found[name] = wide
    return model_of(found)


def model_of(tensors: Mapping[str, NDArray[np.float64]]) -> ClientModel:
    """The model of tensors by the names of the wire."""
    layers = sorted(name.removesuffix(".B") for name in tensors if name.endswith(".B") and not name.startswith("head."))
    update = {layer: Factors(tensors[f"{layer}.A"], tensors[f"{layer}.B"]) for layer in layers}
    head = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    return ClientModel(update, head)

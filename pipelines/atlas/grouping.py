"""Who shares a model with whom: the groups of a method, found by fingerprints where it asks for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pipelines.atlas import fingerprints
from pipelines.atlas.methods import Method

Gradients = Sequence[Mapping[str, NDArray[np.float64]]]


@dataclass(frozen=True)
class Grouping:
    """The group of each member, and what is known of how they were found.

    `similarity` [members, members] and `p_value`, the chance of such clusters without any structure, are None where no
    fingerprints were compared.
    """

    labels: Sequence[int]
    similarity: NDArray[np.float64] | None = None
    p_value: float | None = None
    silhouette: float | None = None

    def to_json(self) -> dict[str, object]:
        """For the state of a federation."""
        near = None if self.similarity is None else self.similarity.tolist()
        return {"labels": list(self.labels), "similarity": near, "p": self.p_value, "silhouette": self.silhouette}

    def nearest(self) -> list[float]:
        """The greatest cosine of each member's fingerprint with another's; empty where none were compared."""
        if self.similarity is None or len(self.labels) < 2:
            return []
        others = self.similarity - 4 * np.eye(len(self.labels))  # below any cosine
        return [float(one) for one in others.max(axis=1)]

    @classmethod
    def from_json(cls, value: Mapping[str, Any], members: int) -> Grouping:
        """What `to_json` made, untrusted. Raises ValueError, TypeError, KeyError."""
        labels = [int(one) for one in value["labels"]]
        near = None if value["similarity"] is None else np.array(value["similarity"], np.float64)
        if len(labels) != members or (near is not None and near.shape != (members, members)):
            raise ValueError("the groups are of other members")
        return cls(labels, near, _number(value["p"]), _number(value["silhouette"]))


def grouped(
    method: Method, tasks: Sequence[str], halves: tuple[Gradients, Gradients] | None, most: int, seed: int
) -> Grouping:
    """The groups of members whose tasks are `tasks`.

    `halves` are their fingerprints, of the first and the second half of their rows, where the method has them.
    """
    names = sorted(set(tasks))
    true = [names.index(task) for task in tasks]
    gradients = [*halves[0], *halves[1]] if halves else []
    similarity = fingerprints.joined(fingerprints.similarity(gradients)) if gradients else None
    match method.groups:
        case "found" if gradients:
            found = fingerprints.clusters(gradients, most, seed)
            return Grouping(list(found.labels), similarity, found.p_value, found.silhouette)
        case "true":
            return Grouping(true)
        case "random":
            return Grouping(Random(f"{seed} random clusters").sample(true, len(true)))
        case "each" | "pooled":
            return Grouping(list(range(len(tasks))))
        case _:
            return Grouping([0] * len(tasks), similarity)


def fingerprint_bytes(gradients: Mapping[str, NDArray[np.float64]]) -> int:
    """Bytes of the file with which a client sends its fingerprint: float32."""
    return len(safetensors.numpy.save({name: value.astype(np.float32) for name, value in gradients.items()}))


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]

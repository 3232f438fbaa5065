"""What the loops of a stage share with each other: tensors of the run, under names that belong to the stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hybrid.canonical import digest
from hybrid.protocols import Tensors


@dataclass(frozen=True, slots=True)
class TensorExchange:
    """A `hybrid.loops.Exchange`. `stage` is the identity of the stage and `model` the digest of its model."""

    tensors: Tensors
    stage: str
    model: str
    clock: Callable[[], float] = time.monotonic

    def share(self, name: str, number: int, data: bytes) -> None:
        """`hybrid.loops.Exchange`."""
        self.tensors.keep(self._key(name), number, data)

    def newest(self, name: str, after: int = -1) -> tuple[int, bytes] | None:
        """`hybrid.loops.Exchange`."""
        return self.tensors.newest(self._key(name), after)

    def now(self) -> float:
        """`hybrid.loops.Exchange`."""
        return self.clock()

    def _key(self, name: str) -> str:
        return digest([self.stage, self.model, "shared", name])

"""The engine of a stage of rounds: what its loops may use of this machine, and where their states are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from hybrid.errors import CannotRun
from hybrid.loops import Lab
from hybrid.protocols import Backend, Tensors
from hybrid.records import Completion, Request


@runtime_checkable
class LoopBackend(Backend, Lab, Protocol):
    """A backend that loops can run on: it is their `Lab`."""

    checkpoint: float  # least seconds between two states that are kept


class LoopEngine:
    """An opened backend for loops, and where their states are kept. Raises CannotRun for a backend without loops."""

    def __init__(self, backend: Backend, tensors: Tensors) -> None:
        if not isinstance(backend, LoopBackend):
            raise CannotRun(
                f"no loop can run on the backend of the model {backend.model.name}",
                hint="as the pipeline's page says: --backend none --model none, --backend classifier (classifiers of "
                "texts) or transformers (language models)",
            )
        self._backend = backend
        self.lab: Lab = backend
        self.tensors, self.model, self.checkpoint = tensors, backend.model, backend.checkpoint

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """What the backend answers."""
        return self._backend.generate(requests)

    def close(self) -> None:
        """The backend is closed by whoever opened it."""

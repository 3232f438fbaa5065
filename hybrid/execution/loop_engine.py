"""The engine of a stage of rounds: what its loops may use of this machine, and where their states are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from hybrid.errors import CannotRun
from hybrid.folder.medium import Medium, Store
from hybrid.folder.segment_shelf import SegmentShelf
from hybrid.folder.segments import stage_place, window_length
from hybrid.loops import Lab
from hybrid.protocols import Backend, Tensors
from hybrid.records import Completion, Request


@runtime_checkable
class LoopBackend(Backend, Lab, Protocol):
    """A backend that loops can run on: it is their `Lab`."""

    checkpoint: float  # least seconds between two states that are kept


def is_for_loops(backend: Backend) -> TypeGuard[LoopBackend]:
    """Whether loops can run on a backend.

    Its class is asked, not the backend: to know its device it may have to import torch, which a loop need not have.
    """
    return all(hasattr(type(backend), name) for name in vars(Lab) if not name.startswith("_"))


@dataclass(frozen=True, slots=True)
class Shelves:
    """Opens the segments of a run's stages, written into `own` and read there and in the shared `folder`, if that is
    another. `now` is a clock in seconds.
    """

    run: str
    own: Store
    folder: Medium | None
    now: Callable[[], float]

    def of(self, identity: str, model: str, series: int) -> SegmentShelf:
        """Those of a stage, by its identity, the digest of its model, and how many series it has."""
        return SegmentShelf(
            stage_place(self.run, identity, model), window_length(series), self.own, self.folder, self.now
        )


class LoopEngine:
    """An opened backend for loops, where their states are kept, and what they publish.

    Raises CannotRun for a backend without loops.
    """

    def __init__(self, backend: Backend, tensors: Tensors, shelves: Shelves | None = None) -> None:
        if not is_for_loops(backend):
            raise CannotRun(
                f"no loop can run on the backend of the model {backend.model.name}",
                hint="as the pipeline's page says: --backend none --model none, --backend classifier (classifiers of "
                "texts) or transformers (language models; vLLM samples for them with --backend-option sampler=vllm)",
            )
        self._backend = backend
        self.lab: Lab = backend
        self.tensors, self.model, self.checkpoint = tensors, backend.model, backend.checkpoint
        self.shelves, self.now = shelves, shelves.now if shelves else time.monotonic

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """What the backend answers."""
        return self._backend.generate(requests)

    def close(self) -> None:
        """The backend is closed by whoever opened it."""

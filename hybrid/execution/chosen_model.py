"""A model as it was chosen for a role: its backend, its name, and the options of the backend on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.backends.registry import (
    digest_before_loading,
    opened,
    refuse_unknown,
    refuse_unknown_embedding,
    refuse_untrainable,
)
from hybrid.folder.spec import ModelSpec
from hybrid.protocols import Backend


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend, its model and its options. The options do not enter the run's id, because each machine has its own;
    the shards record them.
    """

    backend: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)
    embeds: bool = False

    def open(self, *, trains: bool = False) -> Backend:
        return opened(self.backend, self.model, self.options, trains=trains, embeds=self.embeds)

    def check(self, *, trains: bool) -> None:
        """Raise HybridError for a backend that cannot train or embed as it must, and for an option that it lacks."""
        if self.embeds:
            refuse_unknown_embedding(self.backend, self.options, self.model)
            return
        if trains:
            refuse_untrainable(self.backend)
        if self.options:
            refuse_unknown(self.backend, self.options, training=trains)

    def spec(self) -> ModelSpec:
        """The model as a run specifies it, with its digest."""
        return ModelSpec(self.backend, self.model, self.digest())

    def digest(self) -> str:
        return digest_before_loading(self.backend, self.model, self.options, embeds=self.embeds)

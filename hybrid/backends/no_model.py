"""The backend `none`: no language model, for loops that bring models of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from hybrid.backends.options import whole_number
from hybrid.canonical import digest
from hybrid.errors import CannotRun, nearest
from hybrid.loops import EncodedText, Policies
from hybrid.machine.late_imports import import_object
from hybrid.protocols import Model
from hybrid.records import Completion, Failure, Request
from hybrid.tuning import PolicyTuning

NAME = "none"


class NoModel:
    """Offers loops this machine's device; requests are failures."""

    options: ClassVar[Mapping[str, str]] = {
        "device": "device of torch (default: a GPU if there is one)",
        "checkpoint": "least seconds between two states of a loop that are kept, 0 for one a round (default 30)",
    }

    def __init__(self, model: str, options: Mapping[str, str]) -> None:
        self.model = Model(NAME, self.digest_of(model), 1, {"engine": NAME})
        self._device = options.get("device", "auto")
        self.checkpoint = whole_number(options, "checkpoint", 30, low=0, high=1 << 24)

    @staticmethod
    def digest_of(model: str) -> str:
        """The digest of a model. Raises CannotRun for one that there is not."""
        if model != NAME:
            raise CannotRun(f"the backend '{NAME}' has no model '{model:.100}'", hint=nearest(model[:100], [NAME]))
        return digest({"engine": NAME})

    @property
    def device(self) -> str:
        """`hybrid.loops.Lab`."""
        find = import_object("hybrid.backends.devices:find_device", needed_for="a loop on this machine's device")
        return str(find(self._device).kind)

    def tokenize(self, texts: Sequence[str | tuple[str, str]], longest: int) -> list[EncodedText]:
        """Raises CannotRun."""
        raise self._nothing_to_train()

    def classifiers(self, slots: int, rank: int, targets: Sequence[str] | None, labels: int) -> Any:
        """Raises CannotRun."""
        raise self._nothing_to_train()

    def full_classifier(self, labels: int, seed: int) -> Any:
        """Raises CannotRun."""
        raise self._nothing_to_train()

    def policies(self, slots: int, tuning: PolicyTuning) -> Policies:
        """Raises CannotRun."""
        raise CannotRun(f"the backend '{NAME}' has no language model", hint="--backend transformers --model MODEL")

    def _nothing_to_train(self) -> CannotRun:
        return CannotRun(f"the backend '{NAME}' has no model to train", hint="--backend classifier --model tiny")

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """A failure a request."""
        for request in filter(None, requests):
            yield Completion(request.key, error=Failure("bad-request", "this run has no language model"))

    def close(self) -> None:
        """There is nothing to free."""

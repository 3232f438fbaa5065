"""The stage of a training backend: its trainings in groups, their tokenized texts, and the adapters of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid.backends.tuned.group import TrainedAdapter, TrainingRequest
from hybrid.backends.tuned.tokenization import TokenizationWorker, TokenizedTexts
from hybrid.errors import CannotRun, Temporary
from hybrid.model_files.location import context_of
from hybrid.protocols import Tensors, Training
from hybrid.training import adapters


class PreparedStage:
    """The trainings of a stage in fixed groups of `size`. `folder` holds the model's tokenizer."""

    def __init__(self, training: Training, size: int, folder: Path) -> None:
        wanted = [TrainingRequest(tuning, start) for tuning, start in training.trainings]
        self.tensors: Tensors = training.tensors
        self.largest = max([one.tuning.rank for one in wanted], default=0)  # rank
        self.groups = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        self.number_of = {one.name: number for number, group in enumerate(self.groups) for one in group}
        self._tokenization = None
        if training.examples:
            self._tokenization = TokenizationWorker(folder, training.examples, context_of(folder))
        self._kept: dict[str, TrainedAdapter] = {}  # a cache of one: the adapter that was used last

    def texts(self, wanted: Sequence[TrainingRequest]) -> dict[str, TokenizedTexts]:
        """Tuning digest -> texts, for a group; starts to tokenize the next group. Raises Temporary."""
        if self._tokenization is None:
            raise CannotRun("a request asks for training in a stage that has no training examples")
        after = self.number_of[wanted[-1].name] + 1
        ahead = self.groups[after] if after < len(self.groups) else []
        return self._tokenization.tokenized([one.tuning for one in wanted], ahead=[one.tuning for one in ahead])

    def kept(self, name: str) -> TrainedAdapter:
        """An adapter of the run. Raises Temporary when its file is missing (before a sync), BadData when damaged."""
        if name not in self._kept:
            kept = self.tensors.newest(name)
            if kept is None or adapters.adapter_digest(kept[1]) != name:
                raise Temporary(
                    f"the adapter {name[:12]} of the run is not here yet",
                    hint="wait for the sync, then run the same command again",
                )
            self._kept = {name: TrainedAdapter(adapters.from_bytes(kept[1], name[:12]), kept[1], name)}
        return self._kept[name]

    def close(self) -> None:
        """End the tokenization worker and free the adapter."""
        if self._tokenization:
            self._tokenization.close()
        self._kept = {}

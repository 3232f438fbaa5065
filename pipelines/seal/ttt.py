"""SEAL's test-time training with a fixed configuration: an adapter is trained on each ARC task before it is asked.

The configuration is what the paper (arXiv 2506.10943) calls its oracle; docs/seal-ttt.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hybrid.bounds import help_of
from hybrid.canonical import Json
from hybrid.errors import UsageError, nearest
from hybrid.protocols import Stage
from hybrid.records import Item
from hybrid.tasks.arc.reading import ARMS
from hybrid.tuning import Tuning, refuse_untrainable
from hybrid.work import Tune
from pipelines.seal.augmentation import GROUPS
from pipelines.seal.examples import training_examples
from pipelines.seal.training_settings import SMALL, TrainingSettings

SEAL_VIEWS = {"subset": "seal-eval-8", "format": "seal", "include_n": [1], "permute_n": 2, "max_tokens": 2048}


@dataclass(frozen=True)
class SealTtt(TrainingSettings):
    """Train a LoRA adapter on each task's own demonstrations, answer with it; `--grader arc` also grades the base.

    The preset `seal` trains as published, faults included, but reads answers strictly: SEAL's lax reader of grids, with
    which an empty or a reshaped grid votes, is not offered.
    """

    controls: tuple[str, ...] = field(
        default=("base",), metadata=help_of("what is asked beside, of the same questions: base, the untrained model")
    )
    augmentations: tuple[str, ...] = field(
        default=GROUPS, metadata=help_of(f"how more tasks are made of one: {', '.join(GROUPS)}")
    )
    learned: Literal["answer", "all"] = field(
        default="answer", metadata=help_of("which tokens have a loss: the output grid's, or all")
    )
    learning_rate: float = field(default=1e-4, metadata=help_of("of AdamW, after the warm-up"))
    epochs: int = field(default=2, metadata=help_of("how often all training examples of a task are gone through"))

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": SEAL_VIEWS,
        "demo": {**SMALL, "limit": 10, "augmentations": [], "learning_rate": 2e-3, "epochs": 1},
        "seal": {**SEAL_VIEWS, "translation": "seal", "padding": "seal", "texts": "seal"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.augmentations if name not in GROUPS]:
            raise UsageError(f"no augmentations '{unknown[0]}'", hint=nearest(unknown[0], GROUPS))
        if not set(self.controls) <= ARMS or len(set(self.controls)) < len(self.controls):
            raise ValueError(f"controls takes {' and '.join(sorted(ARMS))}, or nothing")
        refuse_untrainable(self, "learning_rate", "epochs")
        self._tuning({})

    def stages(self) -> tuple[Stage, ...]:
        """One stage, on the GPU side: train an adapter for each task; ask it and the base in all views."""
        return (Stage("answer", "gpu", 1, Tune(self._items, training_examples)),)

    def _items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The items task by task: first those of its adapter, then the same for the base."""
        augmentation = self.augmentation_settings(self.augmentations)
        for id in sorted(tasks):
            asked = list(self.task_items(id, tasks[id]))
            tuning = self._tuning(augmentation.of(id, tasks[id]))
            for item in asked:
                yield dataclasses.replace(item, request=dataclasses.replace(item.request, tuning=tuning))
            for arm in self.controls:
                for item in asked:
                    yield dataclasses.replace(item, view={**item.view, "arm": arm})

    def _tuning(self, examples: Mapping[str, Json]) -> Tuning:
        return self.tuning(examples, learning_rate=self.learning_rate, epochs=self.epochs, learned=self.learned)

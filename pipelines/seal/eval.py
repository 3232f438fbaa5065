"""Few-shot answers to ARC tasks in several views: the evaluation of SEAL (arXiv 2506.10943); docs/seal-eval.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.protocols import Stage
from hybrid.records import Item
from hybrid.tasks.arc.questions import ArcQuestionSettings
from hybrid.work import Ask


@dataclass(frozen=True)
class SealEval(ArcQuestionSettings):
    """Answer ARC tasks from their demonstrations, each question shown in several views; `--grader arc` votes."""

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "paper": {"subset": "seal-eval-8", "format": "seal", "include_n": [1], "permute_n": 2, "max_tokens": 2048},
        "demo": {"dataset": "arc1-training", "subset": "small", "permute_n": 0, "limit": 6},
    }

    def stages(self) -> tuple[Stage, ...]:
        """One stage, on the GPU side: all views of all questions in one queue."""
        return (Stage("answer", "gpu", 1, Ask(self._items)),)

    def _items(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        """The items task by task."""
        for id in sorted(tasks):
            yield from self.task_items(id, tasks[id])

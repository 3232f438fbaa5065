"""The model configures its own training on each ARC task: SEAL's self-edits, without RL; docs/seal-self-edit.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hybrid.loads import Foreseen
from hybrid.protocols import Stage
from hybrid.records import Item, Output
from hybrid.work import Ask, Derive, Derived, Tune
from pipelines.seal.editing import Editing, Policy
from pipelines.seal.examples import training_examples
from pipelines.seal.foreseen import foreseen_answers
from pipelines.seal.outcomes import outcomes
from pipelines.seal.training_settings import SMALL

SAMPLE, ANSWER, EDITS = "sample", "answer", "edits"
BASE = Policy()

PAPER = {"subset": "seal-eval-8", "format": "seal", "edits": 5, "max_tokens": 2048}

Earlier = Mapping[str, Iterable[Output]]


@dataclass(frozen=True)
class SealSelfEdit(Editing):
    """Ask for configurations of test-time training, train and answer with each; `--grader self-edit` holds controls
    beside: no training, the configuration that people chose, and random ones.

    The preset `seal` trains as published, faults included, but reads answers strictly: SEAL's lax reader of grids, with
    which an empty or a reshaped grid votes, is not offered.
    """

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "demo": {**SMALL, "tasks": ["stack-0", "top-0"], "most": 6, "edits": 3, "randoms": 1, "schema": True},
        "paper": PAPER,
        "seal": {**PAPER, "voting": "seal", "translation": "seal", "padding": "seal", "texts": "seal"},
    }

    def stages(self) -> tuple[Stage, ...]:
        """The replies of all tasks, the answers of all trained models, and the result of each self-edit."""
        return (
            Stage(SAMPLE, "gpu", 1, Ask(self._samples)),
            Stage(ANSWER, "gpu", 1, Tune(self._answers, training_examples), after=(SAMPLE,)),
            Stage(EDITS, "any", 1, Derive(self._edits), after=(SAMPLE, ANSWER)),
        )

    def foresee(self, stage: str, tasks: Mapping[str, Any]) -> Iterable[Foreseen] | None:
        """`hybrid.protocols.Planned`."""
        return foreseen_answers(self, tasks, self.edits) if stage == ANSWER else None

    def _samples(self, tasks: Mapping[str, Any]) -> Iterator[Item]:
        return self.requested(tasks, self.edits, BASE)

    def _answers(self, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Item]:
        return self.answered(tasks, earlier[SAMPLE], BASE)

    def _edits(self, tasks: Mapping[str, Any], earlier: Earlier) -> Iterator[Derived]:
        return outcomes(self, tasks, earlier[SAMPLE], earlier[ANSWER], BASE)

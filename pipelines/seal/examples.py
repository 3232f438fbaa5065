"""The training examples of a task: the texts that a model is trained on before it answers the task's test inputs.

They are made from the demonstrations alone, never from a test input or its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hybrid.canonical import Json, digest
from hybrid.errors import BadData
from hybrid.records import Example
from hybrid.tasks.arc.data import demonstrations
from hybrid.tasks.arc.text import FORMATS, solved
from hybrid.tasks.arc.views import Pair
from pipelines.seal.augmentation import GROUPS, Translation
from pipelines.seal.variants import MOST, variants


@dataclass(frozen=True, slots=True)
class AugmentationSettings:
    """How training examples are made from a task. All fields and the task enter a tuning's digest.

    `augmentations` are names of GROUPS; `leave_n`, `most`, `colours`, `translation` and `seed` are arguments of
    `variants`; `format` and `instruction` are those of the questions; `date` is today's date for the chat template.
    """

    augmentations: tuple[str, ...] = GROUPS
    leave_n: tuple[int, ...] = (1, 2)
    most: int = MOST
    colours: bool = True
    translation: Translation = "alike"
    seed: int = 0
    format: str = "seal"
    instruction: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        if not (set(self.augmentations) <= set(GROUPS) and set(self.leave_n) <= {1, 2} and self.leave_n):
            raise ValueError(f"augmentations are of {', '.join(GROUPS)}, leave_n of 1 and 2")
        if not (isinstance(self.most, int) and self.most >= 1):
            raise ValueError("most is a number over 0")
        if self.format not in FORMATS or self.translation not in ("alike", "seal"):
            raise ValueError("format and translation are known ones")

    def of(self, id: str, task: Mapping[str, Any]) -> dict[str, Json]:
        """The `examples` of a tuning, with a digest of its demonstrations: other data may use the same ids."""
        how = {**asdict(self), "augmentations": [group for group in GROUPS if group in self.augmentations]}
        if self.translation == "seal" and self.colours and self.augmentations:
            how["version"] = 2  # version 1 drew colours in another order than SEAL: other texts, other adapters
        return {**how, "leave_n": list(self.leave_n), "task": id, "demonstrations": digest(task["train"])}


def training_examples(tasks: Mapping[str, Any], examples: Mapping[str, Json]) -> tuple[Example, ...]:
    """`Tune.examples`: make the training examples that `AugmentationSettings.of` describes from the run's tasks.

    Raises BadData when the task is missing, its demonstrations have changed, or it holds no grids.
    """
    fields: dict[str, Any] = dict(examples)
    id, named, version = (fields.pop(name, None) for name in ("task", "demonstrations", "version"))
    how: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        augmentation = AugmentationSettings(**how)
        if digest(tasks[id]["train"]) != named:
            raise ValueError("other demonstrations")
        if augmentation.of(id, tasks[id]).get("version") != version:
            raise ValueError("their rule has changed")
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(
            f"the training examples of task {id!a:.80} cannot be made: {type(error).__name__}: {error}",
            hint="the run was changed by hand, or written by another version of hybrid",
        ) from error
    return of_demonstrations(demonstrations(tasks[id], id), augmentation)


def of_demonstrations(pairs: Sequence[Pair], augmentation: AugmentationSettings) -> tuple[Example, ...]:
    """A training example for each variant of the demonstrations. Too long ones are left out later, by the trainer."""
    examples = variants(
        pairs,
        augmentation.augmentations,
        augmentation.seed,
        most=augmentation.most,
        leave_n=augmentation.leave_n,
        colours=augmentation.colours,
        translation=augmentation.translation,
    )
    template = {"date_string": augmentation.date} if augmentation.date else {}
    return tuple(
        [
            Example(solved(augmentation.format, one.shown, one.asked, augmentation.instruction), template=template)
            for one in examples
        ]
    )

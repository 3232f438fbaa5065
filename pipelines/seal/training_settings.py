"""The settings of test-time training on ARC tasks: how training examples are made, and how they are trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from hybrid.bounds import Bounds, help_of, refuse_each_outside, refuse_outside
from hybrid.canonical import Json
from hybrid.loads import GuideTable
from hybrid.tasks.arc.questions import ArcQuestionSettings
from hybrid.tuning import SEAL_TARGETS, Tuning, refuse_untrainable
from pipelines.seal import guide
from pipelines.seal.examples import AugmentationSettings

SMALL: Mapping[str, object] = {
    "dataset": "rules",
    "subset": "",
    "instruction": "Apply the rule.",
    "include_n": [0],
    "permute_n": 0,
    "views": [],
    "most": 12,
    "rank": 8,
    "warmup": 0,
}
"""For a first try: tasks that a model of 135M parameters learns in a few steps, each asked once."""


@dataclass(frozen=True)
class TrainingSettings(ArcQuestionSettings):
    """The settings of a training without those that a self-edit chooses: augmentations, loss, learning rate, epochs."""

    include_n: tuple[int, ...] = field(
        default=(1,), metadata=help_of("how many demonstrations a view leaves out, 0 to 2; 1 is like the training")
    )
    seed: int = field(
        default=0, metadata=help_of("draws views, samples, training examples, their order and the adapter's start")
    )
    leave_n: tuple[int, ...] = field(
        default=(1, 2), metadata=help_of("how many demonstrations a training example leaves out")
    )
    most: int = field(default=250, metadata=help_of("training examples of a task; more are cut at random"))
    colours: bool = field(default=True, metadata=help_of("whether half of the training examples are in other colours"))
    translation: Literal["alike", "seal"] = field(
        default="alike", metadata=help_of("shift input and output alike; seal: each otherwise, as published")
    )
    batch: int = field(default=2, metadata=help_of("training examples in an optimizer step"))
    rank: int = field(default=128, metadata=help_of("of the adapter"))
    alpha: float = field(default=16.0, metadata=help_of("the adapter's part is multiplied by alpha / rank"))
    targets: tuple[str, ...] = field(default=SEAL_TARGETS, metadata=help_of("the linear layers that are adapted"))
    warmup: int = field(default=11, metadata=help_of("optimizer steps in which the learning rate rises"))
    schedule: Literal["cosine", "linear", "constant"] = field(
        default="cosine", metadata=help_of("how the learning rate goes on")
    )
    clip: float = field(default=1.0, metadata=help_of("norm at which a gradient is cut; 0: never"))
    padding: Literal["masked", "seal"] = field(
        default="masked", metadata=help_of("seal: texts are padded to the longest, and the padding is learned")
    )
    texts: Literal["clean", "seal"] = field(
        default="clean", metadata=help_of("seal: two begin tokens, and an empty turn at the end, as published")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.leave_n:
            raise ValueError("leave_n is empty: name one or more")
        refuse_each_outside(self, leave_n=Bounds(1, 2))
        refuse_outside(self, most=Bounds(1, 100_000))
        refuse_untrainable(self, "rank", "alpha", "batch", "warmup", "clip")
        self.tuning({}, learning_rate=1e-4, epochs=1, learned="answer")

    def guide(self) -> Iterable[GuideTable]:
        """The guide's tables."""
        return guide.tables()

    def augmentation_settings(self, augmentations: tuple[str, ...]) -> AugmentationSettings:
        """How training examples are made with these augmentations."""
        return AugmentationSettings(
            augmentations=augmentations,
            leave_n=self.leave_n,
            most=self.most,
            colours=self.colours,
            translation=self.translation,
            seed=self.seed,
            format=self.format,
            instruction=self.instruction,
            date=self.date,
        )

    def tuning(
        self, examples: Mapping[str, Json], *, learning_rate: float, epochs: int, learned: Literal["answer", "all"]
    ) -> Tuning:
        """The tuning of an adapter on `examples`. Raises ValueError for settings that cannot be trained with."""
        return Tuning(
            examples,
            learning_rate=learning_rate,
            epochs=epochs,
            rank=self.rank,
            alpha=self.alpha,
            targets=self.targets,
            batch=self.batch,
            warmup=self.warmup,
            schedule=self.schedule,
            clip=self.clip,
            learned=learned,
            padding=self.padding,
            texts=self.texts,
            seed=self.seed,
        )

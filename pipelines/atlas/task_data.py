"""The data of a task of text classification: labelled rows to train on, and to test final models on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from hybrid.canonical import Json

Metric = Literal["accuracy", "f1", "mcc"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""By which a task is judged beside the accuracy: F1 of the label 1 of two, Matthews correlation."""


class Row(NamedTuple):
    """A text, or a pair of texts, and the number of its label."""

    text: str
    pair: str | None
    label: int


@dataclass(frozen=True, slots=True)
class TaskData:
    """The rows of a task. Of `train`, no row stands twice, and none is a row of `dev`.

    `labels`: the names of the labels 0, 1, ... `source`: where the rows came from. `duplicates`, `overlaps`: rows of
    `train` that were left out, because they stood there before or stand in `dev`.
    """

    name: str
    train: Sequence[Row]
    dev: Sequence[Row]
    labels: Sequence[str]
    metric: Metric
    source: str
    duplicates: int = 0
    overlaps: int = 0

    def to_json(self) -> dict[str, Json]:
        """What is frozen with a run."""
        return {
            "train": [list(row) for row in self.train],
            "dev": [list(row) for row in self.dev],
            "labels": list(self.labels),
            "metric": self.metric,
            "source": self.source,
            "duplicates": self.duplicates,
            "overlaps": self.overlaps,
        }

    @classmethod
    def from_json(cls, name: str, value: Mapping[str, Any]) -> TaskData:
        """Read what `to_json` gave."""
        train, dev = ([Row(*row) for row in value[part]] for part in ("train", "dev"))
        return cls(name, train, dev, **{key: value[key] for key in value if key not in ("train", "dev")})

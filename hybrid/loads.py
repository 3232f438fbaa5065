"""What a stage will ask of a device before its items are known: told by its pipeline, for the plan of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hybrid.items import Item
from hybrid.tuning import PolicyTuning


class Foreseen(NamedTuple):
    """An item like the largest ones that a stage may come to have, and how many of these there are at most."""

    item: Item
    times: int = 1


@dataclass(frozen=True, slots=True)
class RoundsLoad:
    """What all loops of a stage compute in all their rounds, at most.

    `asked`: what their policies are asked, in all rounds. `trained_tokens`: of texts in passes of training, forward and
    backward; `longest`: of one text. `models`: trained side by side at a time, each with adapters of `tuning`, or, with
    rank 0, with all parameters its own. `memory`: bytes of models of their own, by what takes them, and `operations` of
    these. `at_once`: series that one worker advances at a time.
    """

    rounds: int
    asked: tuple[Foreseen, ...] = ()
    trained_tokens: int = 0
    longest: int = 0
    models: int = 0
    tuning: PolicyTuning | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    operations: float = 0.0


@dataclass(frozen=True, slots=True)
class GuideTable:
    """A table that people know from a guide, by its own formula, beside what is true. `note` says why they differ."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

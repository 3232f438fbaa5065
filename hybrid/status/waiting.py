"""What each side does for a run now, or waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hybrid.canonical import Json
from hybrid.execution.sides import parts
from hybrid.execution.stage_view import StageView
from hybrid.protocols import Side, Stage
from hybrid.status.attempts import Attempt

SIDES: Mapping[str, str] = {"gpu": "the GPU side", "laptop": "the laptop side", "any": "any machine"}


@dataclass(frozen=True, slots=True)
class SideState:
    """The next stage that a side has to do. `waits_for` is the stage that has to end first; `by` are the attempts at
    work on it. With neither, it waits for a worker.
    """

    side: str
    stage: str
    waits_for: str = ""
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.waits_for:
            return f"{SIDES[self.side]} waits with '{self.stage}' for the stage '{self.waits_for}'"
        if self.by:
            return f"{SIDES[self.side]} is at work on '{self.stage}'"
        return f"'{self.stage}' waits for a worker: {SIDES[self.side]} has to do it"

    def to_json(self) -> dict[str, Json]:
        return {**asdict(self), "by": list(self.by)}


def side_states(
    stages: Sequence[tuple[str, Stage | None]],
    views: Sequence[StageView],
    attempts: Sequence[Attempt],
    sides: Mapping[str, Side],
) -> tuple[SideState, ...]:
    """The state of every side that has something left to do. Stages of an unknown pipeline are left out."""
    found: dict[str, SideState] = {}
    for (_, stage), view in zip(stages, views, strict=True):
        if stage is None or view.left == 0:
            continue
        by = tuple(one.name for one in attempts if one.at_work and one.stage == view.name)
        for side in sorted(set(parts(stage, sides).values())) or [stage.side]:
            found.setdefault(side, SideState(side, view.name, view.waits, by))
    return tuple(found[side] for side in SIDES if side in found)

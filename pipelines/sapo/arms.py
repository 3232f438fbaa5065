"""The arms of a comparison: how many rollouts of its own and of others a node trains on in a round, and controls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MOST = 64
"""Rollouts of a round: questions that a node draws, or takes from others."""
ARM = re.compile(r"(?:(filter-only|equal-compute)-)?([0-9]{1,2})-([0-9]{1,2})")

Control = Literal["", "filter-only", "equal-compute"]


@dataclass(frozen=True, slots=True)
class Arm:
    """`own` (the paper's I) and `foreign` (its J) rollouts of a node's training set, as `6-2` names them.

    The control `filter-only` takes the J rollouts from those that the node itself wrote in earlier rounds: what is left
    of sharing without others. `equal-compute` trains on I of its own alone: it writes as many completions as the arm
    that it is a control of. Raises ValueError for numbers that are out of range.
    """

    own: int
    foreign: int
    control: Control = ""

    def __post_init__(self) -> None:
        if not (0 <= self.own <= MOST and 0 <= self.foreign <= MOST):
            raise ValueError(f"the arm {self.name}: 0 to {MOST} rollouts each")
        if not self.own:
            raise ValueError(f"the arm {self.name}: its nodes write nothing, so that there is nothing to train on")
        if self.control and not self.foreign:
            raise ValueError(f"the arm {self.name} is a control of one that shares, and OWN-0 does not")

    @property
    def name(self) -> str:
        """Its name in settings, series and results."""
        return "-".join(filter(None, (self.control, str(self.own), str(self.foreign))))

    @property
    def shared(self) -> int:
        """Rollouts that a node takes from other nodes in a round."""
        return 0 if self.control else self.foreign

    @property
    def repeated(self) -> int:
        """Rollouts that a node takes from its own earlier rounds."""
        return self.foreign if self.control == "filter-only" else 0


def arm_of(name: str) -> Arm:
    """The arm of a name. Raises ValueError that says how names are made."""
    found = ARM.fullmatch(name)
    if found is None or name != (arm := Arm(int(found[2]), int(found[3]), found[1] or "")).name:  # type: ignore[arg-type]
        raise ValueError(f"there is no arm {name!r:.60}: OWN-FOREIGN such as 4-4, filter-only-4-4 or equal-compute-4-4")
    return arm


def node_name(node: int) -> str:
    """The name of a node in series, groups and segments."""
    return f"node-{node}"

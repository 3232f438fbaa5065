"""Numbers in any unit: metrics of a round as the text of a record, and what a grader measures of outputs together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid.canonical import Json, decode, encode
from hybrid.errors import BadData

MOST = 1000
"""Metrics of a round or a group, and groups of a round."""
LONGEST = 100
"""Characters of a name."""
LARGEST = 1e100
"""Largest absolute value of a metric: what is larger has diverged, and is left out like what is not finite."""


PHASE = "phase"
"""The metric that numbers the part of a training to which a round belongs: a label, of which no curve is drawn."""


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """The metrics of one round, in whatever unit, and those of groups in it (`node-3`).

    `notes` are what else belongs to the round's record, such as the names of what was trained. `costs` are seconds and
    bytes by group ("" for all): they differ whenever a round is computed again, so they are not in the text. Raises
    ValueError when made of anything else; a metric that is not finite has no value and is left out by its maker.
    """

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if type(self.round) is not int or not 0 <= self.round < 2**53:
            raise ValueError(f"a round is a number from 0, got {self.round!r:.40}")
        _check("metrics", self.metrics)
        _check_names("groups", self.groups)
        for name, values in self.groups.items():
            _check(f"the group {name}", values)
        if not isinstance(self.notes, Mapping):
            raise ValueError("the notes of a round are an object")
        checked_costs(self.costs)

    def to_text(self) -> str:
        """The text of the record: canonical JSON of `round`, `metrics`, `groups` and, where there are any, `notes`."""
        value: dict[str, Json] = {"round": self.round, "metrics": self.metrics, "groups": self.groups}
        return encode({**value, "notes": dict(self.notes)} if self.notes else value).decode()

    @classmethod
    def from_text(cls, text: str) -> RoundMetrics:
        """Read what `to_text` wrote; other members of the object are passed over. Raises ValueError for the rest."""
        if not text.startswith("{"):
            raise ValueError("not the metrics of a round: no JSON object")
        try:
            value = decode(text, what="the metrics of a round")
            return cls(value["round"], value["metrics"], value.get("groups", {}), value.get("notes", {}))
        except (BadData, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the metrics of a round: {error}") from error


def costs_of(trained: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """The costs of a round by group, "" for all, of its record or output (`trained`): none where they are none."""
    try:
        return checked_costs(trained.get("costs", {}))
    except ValueError:
        return {}


def checked_costs(costs: Any) -> Mapping[str, Mapping[str, float]]:
    """`costs`, if they are names of groups, or "", with numbers by name. Raises ValueError."""
    if not isinstance(costs, Mapping):
        raise ValueError("the costs of a round are an object")
    _check_names("costs", {name: None for name in costs if name != ""})
    for name, values in costs.items():
        _check(f"the costs of {name}", values)
    return costs


Interval = tuple[float, float]

DIRECTIONS = "higher", "lower"
UNKNOWN = "not told apart"
UNTESTED = "not tested"
EQUAL = "equal"


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure of many outputs together, such as their diversity: of the `group` (a task, a strategy; "" for all).

    `n` outputs were measured. `control` is what the same figure is for the control that `against` names. `better` says
    whether a `higher` or a `lower` value is better, "" where that is not known. Raises ValueError for what is not
    finite.
    """

    group: str
    name: str
    value: float
    n: int
    interval: Interval | None = None
    control: float | None = None
    control_interval: Interval | None = None
    against: str = ""
    better: str = ""

    def __post_init__(self) -> None:
        known = (self.value, *(self.interval or ()), self.control, *(self.control_interval or ()))
        _check(self.name, {str(place): one for place, one in enumerate(known) if one is not None})
        if self.better not in ("", *DIRECTIONS):
            raise ValueError(f"{self.name}: better is {self.better!r:.40}, neither higher nor lower")

    @property
    def standing(self) -> str:
        """`better` or `worse` than the control, `above` or `below` where the direction is not known; "" without one.

        `not told apart` when the 95 % interval of the difference has 0 in it. That interval is made of the two
        intervals, as if they were independent (MOVER: Zou and Donner 2008, Statistics in Medicine 27). `not tested`
        when it is not known, since one of the two has no interval, as with one seed. Intervals without width are of
        exact values, such as counts: chance has no part in their difference, and they may be `equal`.
        """
        if self.control is None:
            return ""
        if self.interval is None or self.control_interval is None:
            return UNTESTED
        (low, high), (least, most) = self.interval, self.control_interval
        gap = self.value - self.control
        if gap == 0 and low == high and least == most:
            return EQUAL
        if gap > math.hypot(self.value - low, most - self.control):
            return {"higher": "better", "lower": "worse"}.get(self.better, "above")
        if -gap > math.hypot(high - self.value, self.control - least):
            return {"higher": "worse", "lower": "better"}.get(self.better, "below")
        return UNKNOWN

    def to_json(self) -> dict[str, Json]:
        """Its object in the summary of grades.json (docs/format.md)."""
        return {
            "group": self.group,
            "name": self.name,
            "value": self.value,
            "n": self.n,
            "interval": list(self.interval) if self.interval else None,
            "control": self.control,
            "control_interval": list(self.control_interval) if self.control_interval else None,
            "against": self.against,
            "better": self.better,
            "standing": self.standing,
        }


def _check_names(what: str, values: Any) -> None:
    if not isinstance(values, Mapping) or len(values) > MOST:
        raise ValueError(f"{what}: not an object of at most {MOST} members")
    for name in values:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
            raise ValueError(f"{what}: {name!r:.40} is no name of 1 to {LONGEST} characters")


def _check(what: str, values: Any) -> None:
    _check_names(what, values)
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise ValueError(f"{what}: {name} is {value!r:.40}, not a finite number of at most {LARGEST:g}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{what}: {name} is not finite")

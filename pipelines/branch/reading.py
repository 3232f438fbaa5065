"""The tree as the records of a run tell it. They may be from anybody: what is of the wrong kind is left out."""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

from hybrid.records import Output
from pipelines.branch.nodes import REFUSED, Verdict

CHOSEN = ("kept", "expanded")
DROPPED = ("dropped-beam", "dropped-similar")
VERDICTS = tuple(name for name in get_args(Verdict) if name)
MOST_DIMENSIONS = 65_536
LARGEST = 10**12
"""Of a count that is believed."""

NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One candidate: what it says, and what became of it. `vector` has length 1 or is empty."""

    task: str
    id: str
    parent: str
    depth: int
    level: str
    strategy: str
    prompt: str
    text: str | None
    failure: str
    verdict: str
    reason: str
    sibling: str
    similarity: float | None
    score: float | None
    features: Mapping[str, float]
    cluster: int | None
    position: tuple[float, float] | None
    tokens: int
    seconds: float
    control: bool
    preference: float | None
    shown_first: int
    first_won: int
    vector: array[float]

    @property
    def chosen(self) -> bool:
        """Whether it was selected: it is kept, or others grow from it."""
        return self.verdict in CHOSEN

    @property
    def accepted(self) -> bool:
        """Whether it came through the door, to where the selection is."""
        return self.verdict not in REFUSED and self.text is not None

    @property
    def place(self) -> tuple[int, ...]:
        """The numbers of its path, by which siblings are in order."""
        return tuple(int(number) for number in NUMBER.findall(self.id.rpartition("/")[2])[:64])


def node_of(output: Output) -> TreeNode:
    """The node that a record of the stage `tree` holds."""
    view = output.view
    verdict = _text(view, "verdict")
    if output.text is None:
        verdict = verdict if verdict in ("failed", "over-budget") else "failed"
    position = view.get("position")
    return TreeNode(
        task=output.task,
        id=output.question,
        parent=_text(view, "parent"),
        depth=_count(view, "depth"),
        level=_text(view, "level"),
        strategy=_text(view, "strategy"),
        prompt=_text(view, "prompt"),
        text=output.text,
        failure=f"{output.error.kind}: {output.error.message}" if output.error else "",
        verdict=verdict if verdict in VERDICTS else "",
        reason=_text(view, "reason"),
        sibling=_text(view, "sibling"),
        similarity=_number(view.get("similarity")),
        score=_number(view.get("score")),
        features=_features(view.get("features")),
        cluster=cluster if type(cluster := view.get("cluster")) is int and 0 <= cluster < LARGEST else None,
        position=_position(position) if isinstance(position, list) and len(position) == 2 else None,
        tokens=_count(view, "tokens"),
        seconds=max(0.0, _number(view.get("seconds")) or 0.0),
        control=view.get("control") is True,
        preference=_share(view.get("preference")),
        shown_first=_count(view, "shown_first"),
        first_won=min(_count(view, "first_won"), _count(view, "shown_first")),
        vector=_vector(view.get("vector")),
    )


def trees(outputs: Iterable[Output]) -> Iterator[tuple[str, list[TreeNode]]]:
    """Each scenario's nodes, those of the control among them; what is no candidate (depth 0) stands there, too."""
    for task, some in groupby(outputs, key=lambda one: one.task):
        yield task, [node_of(one) for one in some]


def kept_of(nodes: Sequence[TreeNode]) -> list[TreeNode]:
    """What a scenario kept, the best score first."""
    kept = [one for one in nodes if one.verdict == "kept" and not one.control and one.text is not None]
    return sorted(kept, key=lambda one: (-(one.score if one.score is not None else -1.0), one.place, one.id))


def plain_of(nodes: Sequence[TreeNode], depth: int) -> list[TreeNode]:
    """The plain samples of a level that the control drew, whatever they are worth: all that have a text."""
    found = [one for one in nodes if one.control and one.depth == depth and one.text is not None]
    return sorted(found, key=lambda one: (one.place, one.id))


def clusters_of(nodes: Iterable[TreeNode]) -> dict[int, tuple[int, int]]:
    """Number and size of each cluster of more than one text, as all pages call it: the largest is 1."""
    sizes = Counter(one.cluster for one in nodes if one.cluster is not None)
    several = sorted((one for one in sizes if sizes[one] > 1), key=lambda one: (-sizes[one], one))
    return {one: (number, sizes[one]) for number, one in enumerate(several, start=1)}


def path_to(node: TreeNode, by_id: Mapping[str, TreeNode]) -> list[TreeNode]:
    """The nodes from the first level down to this one; of a chain that runs in a circle only its end."""
    chain, seen = [node], {node.id}
    while (parent := by_id.get(chain[-1].parent)) and parent.id not in seen:
        chain.append(parent)
        seen.add(parent.id)
    return chain[::-1]


def _text(view: Mapping[str, Any], name: str) -> str:
    value = view.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    return float(value) if known and math.isfinite(value) else None


def _share(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0.0 <= number <= 1.0 else None


def _count(view: Mapping[str, Any], name: str) -> int:
    value = view.get(name)
    return value if type(value) is int and 0 <= value <= LARGEST else 0


def _position(value: list[Any]) -> tuple[float, float] | None:
    x, y = _number(value[0]), _number(value[1])
    return None if x is None or y is None else (x, y)


def _features(value: Any) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        return {}
    known = ((str(name), _number(one)) for name, one in list(value.items())[:50])
    return {name: one for name, one in known if one is not None}


def _vector(value: Any) -> array[float]:
    """A vector of length 1 of base64 float32, little-endian; empty when it is none."""
    nothing, numbers = array("d"), array("f")
    if not isinstance(value, str) or len(value) > 6 * MOST_DIMENSIONS:
        return nothing
    try:
        numbers.frombytes(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return nothing
    if sys.byteorder == "big":
        numbers.byteswap()
    length = math.hypot(*numbers)
    if not 0.5 < length < 2.0:  # NaN is not either
        return nothing
    return array("d", (one / length for one in numbers))

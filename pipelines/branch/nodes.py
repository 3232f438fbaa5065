"""The tree of a scenario: its nodes, each a candidate that a model wrote, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid.records import Failure

Verdict = Literal[
    "",
    "kept",
    "expanded",
    "dropped-beam",
    "dropped-similar",
    "rejected-duplicate",
    "rejected-boilerplate",
    "rejected-off-topic",
    "rejected-constraint",
    "failed",
    "over-budget",
]
"""What became of a node; "" while it is not decided."""

REFUSED = frozenset(
    {
        "rejected-duplicate",
        "rejected-boilerplate",
        "rejected-off-topic",
        "rejected-constraint",
        "failed",
        "over-budget",
    }
)
"""The verdicts of nodes that were never candidates for the selection."""


@dataclass(slots=True)
class Node:
    """A candidate. `tokens` were generated for it, in `seconds` of the model; `logprob` is the mean of a token."""

    id: str
    parent: str
    depth: int  # of the first level: 1
    level: str
    strategy: str
    prompt: str  # what it was asked for, in one line
    text: str | None
    failure: Failure | None = None
    verdict: Verdict = ""
    reason: str = ""
    sibling: str = ""
    similarity: float | None = None
    score: float | None = None  # in [0, 1], among the candidates of its level
    features: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    vector: tuple[float, ...] | None = None
    finish: str = ""
    control: bool = False
    preference: float | None = None  # the share of its comparisons with control texts that it won
    shown_first: int = 0  # readable answers of the judge to comparisons in which it was shown first
    first_won: int = 0  # how many of them name it
    cluster: int | None = None
    row: Any = None  # `vector` as a unit row of `pipelines.branch.rows`

    @property
    def accepted(self) -> bool:
        """Whether it is a candidate for the selection."""
        return self.verdict not in REFUSED

    def decide(self, verdict: Verdict, reason: str = "", sibling: str = "", similarity: float | None = None) -> None:
        """Say what became of it."""
        self.verdict, self.reason, self.sibling, self.similarity = verdict, reason, sibling, similarity


class Tree:
    """Nodes by id, in the order in which they were added, and the children of each."""

    def __init__(self, root: str, levels: int) -> None:
        self.root, self.levels = root, levels
        self.nodes: dict[str, Node] = {}
        self._children: dict[str, list[Node]] = defaultdict(list)
        self._levels: dict[int, list[Node]] = defaultdict(list)
        self.attempts: dict[tuple[str, str], int] = {}
        """(parent, strategy) -> calls that were made, so that a further call draws another sample."""

    def add(self, node: Node) -> None:
        """Add a node under its parent."""
        self.nodes[node.id] = node
        self._children[node.parent].append(node)
        self._levels[node.depth].append(node)

    def next_id(self, parent: str) -> str:
        """The id that the next child of this parent has."""
        number = len(self._children[parent])
        return f"{parent}/{number}" if parent == self.root else f"{parent}.{number}"

    def children(self, id: str) -> list[Node]:
        """All children of a node, refused ones too."""
        return self._children[id]

    def depth_of(self, id: str) -> int:
        """0 for the root."""
        return 0 if id == self.root else self.nodes[id].depth

    def at(self, depth: int) -> list[Node]:
        """All nodes of a level, refused ones too."""
        return self._levels[depth]

    def accepted(self, depth: int) -> list[Node]:
        """The candidates of a level."""
        return [node for node in self._levels[depth] if node.accepted]

    def story(self, id: str) -> list[tuple[str, str]]:
        """Level and text of each node from the first level down to this one."""
        told: list[tuple[str, str]] = []
        while id != self.root:
            node = self.nodes[id]
            told.append((node.level, node.text or ""))
            id = node.parent
        return told[::-1]

    def deepest(self) -> int:
        """The deepest level that has candidates; 0 when none has."""
        return max((depth for depth in self._levels if self.accepted(depth)), default=0)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

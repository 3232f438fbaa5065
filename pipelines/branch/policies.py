"""Where the tree grows next: `beam`, `best-first`, `ucb` (wider or deeper) and `map-elites` (the best of each cluster).

A policy is a function of the tree alone, so a replayed search grows the same tree. Each asks for several expansions at
a time: they run at once, and a later one must not depend on which of them ends first.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pipelines.branch.nodes import Node, Tree

Name = Literal["beam", "best-first", "ucb", "map-elites"]
WIDER = 0.3
"""Weight of curiosity in `ucb`, for rewards in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """`count` accepted texts are wanted under the node `parent`."""

    parent: str
    count: int


class Policy(Protocol):
    """Says where to grow, until it has nothing more to say. One that grows `by_level` never comes back to a level."""

    @property
    def by_level(self) -> bool: ...

    def choose(self, tree: Tree) -> list[Expansion]:
        """The next expansions, at most one a parent; none when the tree is as it should be."""
        ...


Choose = Callable[[Sequence[Node], int], list[Node]]
"""Chooses so many of these candidates for quality and difference, and says of the others why they are dropped."""


@dataclass(frozen=True)
class Beam:
    """Level by level: of all candidates of a level the best and most different ones go on."""

    by_level: ClassVar[bool] = True
    candidates: int
    keep: int
    select: Choose

    def choose(self, tree: Tree) -> list[Expansion]:
        """The nodes that go on to the next level."""
        depth = max((node.depth for node in tree), default=0)
        if depth == 0:
            return [Expansion(tree.root, self.candidates)]
        if depth == tree.levels:
            return []
        kept = self.select(tree.accepted(depth), self.keep)
        for node in kept:
            node.decide("expanded")
        return [Expansion(node.id, self.candidates) for node in kept]


@dataclass(frozen=True)
class BestFirst:
    """Always the best nodes that have no children yet; of equally good ones the deeper first."""

    by_level: ClassVar[bool] = False
    candidates: int
    keep: int
    most: int  # nodes of the whole tree

    def choose(self, tree: Tree) -> list[Expansion]:
        """The best nodes without children."""
        if not len(tree):
            return [Expansion(tree.root, self.candidates)]
        if len(tree) >= self.most:
            return []
        open_ones = [one for one in growing(tree) if not tree.children(one.id)]
        best = sorted(open_ones, key=lambda one: (-(one.score or 0.0), -one.depth, one.id))[: self.keep]
        return [Expansion(node.id, self.candidates) for node in best]


@dataclass(frozen=True)
class Ucb:
    """From the root down: write a further child here (wider), or go on below the best child (deeper), whichever has the
    higher upper confidence bound, as AB-MCTS decides. What is under way counts as a visit without a reward.
    """

    by_level: ClassVar[bool] = False
    candidates: int
    keep: int
    most: int

    def choose(self, tree: Tree) -> list[Expansion]:
        """As many places as candidates, drawn one after another."""
        if len(tree) >= self.most:
            return []
        visits, rewards, pending = _visits(tree), _rewards(tree), Counter[str]()
        width = min(self.candidates, self.most - len(tree))
        for _ in range(width):
            place = self._descend(tree, visits, rewards, pending)
            pending[place] += 1
        return [Expansion(id, count) for id, count in sorted(pending.items())]

    def _descend(self, tree: Tree, visits: Counter[str], rewards: Mapping[str, float], pending: Counter[str]) -> str:
        """The node under which the next text is written; the visits on the way are counted."""
        place = tree.root
        while True:
            children = tree.children(place)
            tried = len(children) + pending[place]
            deeper = [one for one in children if one.accepted and one.depth < tree.levels]
            total = tried + sum(visits[one.id] for one in deeper)
            bounds = [(self._bound(_mean(children, tried, tree.levels), tried, total), "")]
            bounds += [(self._bound(rewards[one.id] / visits[one.id], visits[one.id], total), one.id) for one in deeper]
            _, child = min(bounds, key=lambda bound: (-bound[0], bound[1]))
            if not child:
                return place
            visits[child] += 1
            place = child

    @staticmethod
    def _bound(mean: float, tried: int, total: int) -> float:
        return math.inf if tried == 0 else mean + WIDER * math.sqrt(math.log(max(total, 2)) / tried)


@dataclass(frozen=True)
class MapElites:
    """The texts of each level fall into clusters; the best of each cluster goes on, those with the fewest children
    first. So what is rare is followed even where its score is lower.
    """

    by_level: ClassVar[bool] = False
    candidates: int
    keep: int
    most: int
    clusters: Callable[[Sequence[Node]], Sequence[int]]

    def choose(self, tree: Tree) -> list[Expansion]:
        """The best of the clusters with the fewest children."""
        if not len(tree):
            return [Expansion(tree.root, self.candidates)]
        if len(tree) >= self.most:
            return []
        elites: list[tuple[int, Node]] = []
        for depth in range(1, tree.levels):
            nodes = sorted(tree.accepted(depth), key=lambda one: (-(one.score or 0.0), one.id))
            cells: dict[int, Node] = {}
            children = Counter[int]()
            for node, cell in zip(nodes, self.clusters(nodes), strict=True):
                cells.setdefault(cell, node)
                children[cell] += len(tree.children(node.id))
            elites += [(children[cell], node) for cell, node in cells.items()]
        elites.sort(key=lambda one: (one[0], -one[1].depth, -(one[1].score or 0.0), one[1].id))
        return [Expansion(node.id, max(1, self.candidates // 2)) for _, node in elites[: self.keep]]


def growing(tree: Tree) -> list[Node]:
    """The candidates that may have children."""
    return [node for node in tree if node.accepted and node.depth < tree.levels]


def _visits(tree: Tree) -> Counter[str]:
    """One visit a node, and one for each that was written below it."""
    visits = Counter[str]()
    for node in tree:
        for id in _way(tree, node):
            visits[id] += 1
    return visits


def _rewards(tree: Tree) -> dict[str, float]:
    """The sum of the scores of a node and of all below it; a refused one has none."""
    rewards = defaultdict[str, float](float)
    for node in tree:
        for id in _way(tree, node):
            rewards[id] += _reward(node, tree.levels)
    return rewards


def _way(tree: Tree, node: Node) -> list[str]:
    way = [node.id]
    while node.parent != tree.root:
        node = tree.nodes[node.parent]
        way.append(node.id)
    return way


def _reward(node: Node, levels: int) -> float:
    """The score, times how far the story has come: only whole stories are kept in the end."""
    return (node.score or 0.0) * node.depth / levels if node.accepted else 0.0


def _mean(children: Sequence[Node], tried: int, levels: int) -> float:
    return sum(_reward(child, levels) for child in children) / tried if tried else 0.0

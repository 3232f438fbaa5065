"""The control of a tree: on each level as many plain samples as the tree has nodes, below what chance has kept.

It is asked for beside the tree, as far as that is known to need it: so the server has work while a level of the tree
waits for its last answers.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from hybrid.sampling import item_seed
from hybrid.work import Together, Walk
from pipelines.branch.nodes import Node, Tree

Samples = Callable[[str, list[tuple[str, str]], int, range], Walk]
"""A walk that asks for plain samples under a parent with this story, on a level, with these numbers: their nodes."""


class Control:
    """Plain samples of `tree.levels` levels, of each of which chance keeps `keep`."""

    def __init__(self, root: str, levels: int, keep: int, seed: int, samples: Samples) -> None:
        self.tree = Tree(root, levels)
        self._keep, self._seed, self._samples = keep, seed, samples
        self._depth = 1
        self._parents = [root]
        self._asked: dict[str, list[Node]] = {}  # of the level that is under way, by parent

    def sampled(self, counts: Mapping[int, int], ended: int) -> Walk:
        """Ask for what is missing to the tree's `counts` of nodes by level. Levels up to `ended` have no more of them.

        A level is begun only after chance has drawn from the one before it.
        """
        while self._depth <= self.tree.levels:
            yield from self._more(counts.get(self._depth, 0))
            if self._depth > ended:
                return
            self._draw()

    def _more(self, count: int) -> Walk:
        """Ask under the parents, which take turns, until there are `count` samples of the level."""
        known = sum(map(len, self._asked.values()))
        turns = (self._parents[number % len(self._parents)] for number in range(count if self._parents else 0))
        shares = Counter(turns)
        missing = {parent: range(len(self._asked.get(parent, ())), share) for parent, share in shares.items()}
        missing = {parent: numbers for parent, numbers in missing.items() if numbers}
        if count <= known or not missing:
            return
        walks = [
            self._samples(parent, self.tree.story(parent), self._depth, numbers) for parent, numbers in missing.items()
        ]
        for parent, nodes in zip(missing, (yield Together(walks)), strict=True):
            self._asked.setdefault(parent, []).extend(replace(node, control=True) for node in nodes)

    def _draw(self) -> None:
        """End a level: number its samples, and let chance draw the parents of the next one."""
        for parent in self._parents:
            for node in self._asked.get(parent, ()):
                node.id = self.tree.next_id(parent)
                self.tree.add(node)
        pool = self.tree.accepted(self._depth)
        drawn = random.Random(item_seed(self._seed, self.tree.root, self._depth))
        kept = drawn.sample(pool, min(self._keep, len(pool)))
        ids = {node.id for node in kept}
        for node in pool:
            if node.id not in ids:
                node.decide("dropped-beam", "chance did not draw it")
            else:
                node.decide("kept" if self._depth == self.tree.levels else "expanded")
        self._parents = sorted(ids, key=lambda id: [int(part) for part in id.rpartition("/")[2].split(".")])
        self._depth, self._asked = self._depth + 1, {}

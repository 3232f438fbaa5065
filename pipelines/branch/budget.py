"""Budgets of candidates, generated tokens and milliseconds of the model: what is left, and who may use how much.

All counts come from records, so a replayed search has the same budget at every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Literal

from pipelines.branch.nodes import Node

Mode = Literal["hard", "soft"]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may still be used. `hard` asks for nothing that might not fit and counts nothing that came too late; in a
    `soft` one, what is in flight when it ends still counts.
    """

    nodes: float = inf
    tokens: float = inf  # generated, in the worst case `max_tokens` a call
    ms: float = inf
    mode: Mode = "hard"

    def calls(self, nodes: int, tokens: int) -> float:
        """How many calls fit that give `nodes` candidates and at most `tokens` tokens each; inf without a bound."""
        if min(self.nodes, self.tokens, self.ms) <= 0:
            return 0
        if self.mode == "soft":
            return inf if self.nodes == inf else -(-self.nodes // nodes)
        return min(self.nodes // nodes, self.tokens // tokens)

    def less(self, nodes: Iterable[Node]) -> Allowance:
        """What is left after these candidates."""
        used = list(nodes)
        return Allowance(
            self.nodes - len(used),
            self.tokens - sum(node.tokens for node in used),
            self.ms - 1000 * sum(node.seconds for node in used),
            self.mode,
        )

    def shares(self, count: int, nodes: int, tokens: int) -> list[Allowance]:
        """Equal shares for `count` expansions at a time, in whole calls of `nodes` candidates and `tokens` tokens: the
        first ones have one more where it does not come out even.
        """
        return [
            Allowance(
                self._share(self.nodes, nodes, count, place),
                self._share(self.tokens, tokens, count, place),
                self.ms / count,
                self.mode,
            )
            for place in range(count)
        ]

    def _share(self, left: float, size: int, count: int, place: int) -> float:
        if left == inf:
            return inf
        calls = int(left) // size if self.mode == "hard" else -int(-left // size)
        return max(0, (calls // count + (place < calls % count)) * size)

    def refuse_late(self, nodes: Iterable[Node]) -> None:
        """Set aside what came after the milliseconds were used up, in the order of the nodes; only if it is hard."""
        left = self.ms
        for node in nodes:
            if self.mode == "hard" and left <= 0 and node.accepted:
                node.decide("over-budget", f"it came after the {self.ms:,.0f} ms of the model that were left")
            left -= 1000 * node.seconds

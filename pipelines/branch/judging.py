"""A judge that compares texts in pairs, each pair in both orders, within a budget of calls."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from hybrid.records import Item, Message, Output, Request, Sampling
from hybrid.statistics.bradley_terry import Verdict, next_pairs, strengths
from hybrid.work import Walk
from pipelines.branch.nodes import Node, Tree
from pipelines.branch.scenario import Scenario

ROLE = "judge"
SYSTEM = (
    "You compare two texts that answer the same request. Say which one a demanding reader would rather go on reading: "
    "the better written and the more original one. Answer with JSON."
)
SCHEMA = {
    "type": "object",
    "properties": {"better": {"type": "string", "enum": ["A", "B"]}},
    "required": ["better"],
    "additionalProperties": False,
}
MAX_TOKENS = 24


class Judging:
    """The comparisons of one scenario, at most `comparisons` a level; none when that is 0."""

    def __init__(self, comparisons: int, scenario: Scenario) -> None:
        self._calls, self._scenario = 2 * comparisons, scenario
        self._asked: dict[int, int] = defaultdict(int)
        self._verdicts: dict[int, list[Verdict]] = defaultdict(list)

    def strengths(self, nodes: Sequence[Node]) -> Walk:
        """What the judge finds of the candidates of one level, as the chance of each against the average one.

        Asks about further pairs while the level's budget lasts. An answer that cannot be read tells nothing.
        """
        depth, ids = nodes[0].depth, {node.id: node for node in nodes}
        known = self._verdicts[depth]
        pairs = next_pairs(list(ids), known, self._calls - self._asked[depth]) if self._calls else []
        if pairs:
            shown = [(ids[first], ids[second]) for first, second in pairs]
            outputs = yield [self._item(*pair) for pair in shown]
            self._asked[depth] += len(pairs)
            known += _verdicts(shown, outputs)
        if not known:
            return {}
        found = strengths(list(ids), known)
        return {id: one.chance.value for id, one in found.items() if one.verdicts}

    def prefer(self, tree: Tree, control: Tree) -> Walk:
        """Compare each kept text with texts that chance kept, in both orders, and note what share it won."""
        kept = [node for node in tree if node.verdict == "kept"]
        plain = [node for node in control if node.verdict == "kept"]
        rounds = min(len(plain), self._calls // (2 * len(kept))) if kept else 0
        others = [
            (node, plain[(place + number) % len(plain)]) for number in range(rounds) for place, node in enumerate(kept)
        ]
        pairs = [shown for pair in others for shown in (pair, pair[::-1])]
        if not pairs:
            return
        outputs = yield [self._item(*pair) for pair in pairs]
        won: dict[str, list[float]] = defaultdict(list)
        for verdict in _verdicts(pairs, outputs):
            mine = verdict.first if verdict.first in tree.nodes else verdict.second
            won[mine].append(verdict.won if verdict.first == mine else 1 - verdict.won)
        for node in kept:
            if won[node.id]:
                node.preference = round(sum(won[node.id]) / len(won[node.id]), 4)

    def _item(self, first: Node, second: Node) -> Item:
        level = self._scenario.levels[first.depth - 1]
        text = (
            f"Request: {self._scenario.brief} {level.ask}\n\nText A:\n{first.text}\n\nText B:\n{second.text}\n\n"
            'Which text is better? {"better": "A"} or {"better": "B"}'
        )
        messages = (Message("system", SYSTEM), Message("user", text))
        request = Request(Sampling(MAX_TOKENS), messages, schema=SCHEMA)
        return Item(self._scenario.name, f"{ROLE}/{first.id}|{second.id}", request, role=ROLE)


def _verdicts(pairs: Sequence[tuple[Node, Node]], outputs: Sequence[Output]) -> list[Verdict]:
    """What can be read of the answers; the text shown first keeps count of them."""
    found = list[Verdict]()
    for (first, second), output in zip(pairs, outputs, strict=True):
        if (won := _better(output)) is not None:
            first.shown_first += 1
            first.first_won += int(won)
            found.append(Verdict(first.id, second.id, won=won))
    return found


def _better(output: Output) -> float | None:
    """1 where the first text is better, 0 where the second is, None for an answer that cannot be read."""
    try:
        answer = json.loads(output.text or "")["better"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"A": 1.0, "B": 0.0}.get(answer) if isinstance(answer, str) else None

"""What a node trains on in a round: its own rollouts, those that it takes of others, and the controls' earlier ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.sapo.advantages import advantages
from pipelines.sapo.ledger import Entry, Group, Used
from pipelines.sapo.ledger import digest_of as digest_of_set
from pipelines.sapo.node import Node
from pipelines.sapo.pool import Candidate, choose, digest_of


@dataclass(frozen=True, slots=True)
class Chosen:
    """A training set in order, and its entry in the ledger."""

    groups: tuple[Group, ...]
    entry: Entry


def chosen(
    node: Node, round: int, own: Sequence[Candidate], pool: Sequence[Candidate], refused: Mapping[str, int]
) -> Chosen:
    """The training set of a node. `pool`: rollouts of others, or its own earlier ones for a control that repeats them.

    `refused`: kind -> rollouts of others that have arrived and are not used.
    """
    wanted = node.arm.shared or node.arm.repeated
    most = _most_of_one(node)
    taken = choose(pool, wanted, node.settings.foreign, node.seed, node=node.number, round=round, most=most)
    groups = tuple(_group(node, one) for one in (*own, *taken))
    entry = Entry(
        node.number, round, _used(groups), node.arm.shared, node.seed, len(pool), digest_of(pool),
        digest_of_set(groups), dict(refused),
    )  # fmt: skip
    return Chosen(groups, entry)


def _most_of_one(node: Node) -> int:
    """Rollouts of one other node that a training set has at most; 0 for any number."""
    bound, others = node.settings.most_of_one, node.settings.nodes - 1
    return max(bound, -(-node.arm.shared // others)) if bound and node.arm.shared else 0


def with_more(of: Chosen, node: Node, more: Sequence[Candidate]) -> Chosen:
    """The training set with further rollouts of the node's own at its end."""
    groups = (*of.groups, *(_group(node, one) for one in more))
    old = of.entry
    entry = Entry(
        old.node, old.round, _used(groups), old.wanted, old.seed, old.pool, old.pool_digest,
        digest_of_set(groups), old.refused,
    )  # fmt: skip
    return Chosen(groups, entry)


def _used(groups: Sequence[Group]) -> tuple[Used, ...]:
    return tuple(Used(*one.rollout.place, one.rollout.id, one.rewards) for one in groups)


def _group(node: Node, one: Candidate) -> Group:
    scaled = node.settings.advantage == "scaled"
    return Group(one.rollout, one.rewards, advantages(one.rewards, scaled=scaled), one.rollout.node == node.number)

"""What a node trained in each round, so that no rollout is trained twice and every round can be rebuilt.

Reading is at least once: segments may come twice, late, in any order. What is in the ledger is not trained again,
so the effect is exactly once. An entry is in the record of its round; the ledger of the last rounds in the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybrid.canonical import Json, encode
from hybrid.errors import BadData
from pipelines.sapo.rollouts import Place, Rollout

MOST_GROUPS = 10_000


class Group(NamedTuple):
    """A rollout in a training set. `rewards`: of its answers, in 1/10,000; `advantages`: None for a dead group."""

    rollout: Rollout
    rewards: tuple[int, ...]
    advantages: tuple[float, ...] | None
    own: bool


class Used(NamedTuple):
    """A rollout as an entry names it."""

    node: int
    round: int
    slot: int
    id: str
    rewards: tuple[int, ...]


def digest_of(groups: Sequence[Group]) -> str:
    """The sha256 of a training set: ids, which name the texts, rewards and advantages, in order.

    It needs no tokenizer. Token ids are in it where they were shared, since an id names them too.
    """
    made_of = [[one.rollout.id, one.own, one.rewards, one.advantages] for one in groups]
    return hashlib.sha256(encode(made_of)).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One round of one node. `used`: the training set in order; `wanted`: foreign rollouts that were to be in it.

    `seed`: of the choice; `pool`: how many rollouts it was made from, `pool_digest`: of their ids, sorted; `set`: the
    digest of the training set; `refused`: kind -> rollouts of others.
    """

    node: int
    round: int
    used: tuple[Used, ...]
    wanted: int
    seed: int
    pool: int
    pool_digest: str
    set: str
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def foreign(self) -> list[Used]:
        return [one for one in self.used if one.node != self.node]

    @property
    def ages(self) -> list[int]:
        """Rounds since each foreign rollout was written."""
        return [self.round - one.round for one in self.foreign]

    def to_json(self) -> dict[str, Json]:
        """Its object in the notes of a round."""
        return {
            "used": [[one.node, one.round, one.slot, one.id, one.rewards] for one in self.used],
            "wanted": self.wanted,
            "seed": self.seed,
            "pool": self.pool,
            "pool_digest": self.pool_digest,
            "set": self.set,
            **({"refused": dict(self.refused)} if self.refused else {}),
        }

    @classmethod
    def from_json(cls, value: Any, node: int, round: int) -> Entry:
        """Read what `to_json` made; other members are passed over. Raises BadData."""
        try:
            used = tuple(_used(one) for one in value["used"][: MOST_GROUPS + 1])
            whole = [value[name] for name in ("wanted", "seed", "pool")]
            texts = [value[name] for name in ("pool_digest", "set")]
            refused = dict(value.get("refused", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadData(f"round {round} of node {node}: not an entry of a ledger: {error}") from error
        numbers = [*whole, *refused.values()]
        if len(used) > MOST_GROUPS or not all(type(one) is int and one >= 0 for one in numbers):
            raise BadData(f"round {round} of node {node}: not an entry of a ledger: not a whole number")
        if not all(isinstance(one, str) for one in [*texts, *refused]):
            raise BadData(f"round {round} of node {node}: not an entry of a ledger: a digest is no text")
        wanted, seed, pool = whole
        return cls(node, round, used, wanted, seed, pool, texts[0], texts[1], refused)


def _used(value: Any) -> Used:
    node, round, slot, name, rewards = value
    if not all(type(one) is int and one >= 0 for one in (node, round, slot, *rewards)) or not isinstance(name, str):
        raise ValueError("a rollout is its node, round, slot, id and rewards")
    return Used(node, round, slot, name, tuple(rewards))


class Ledger:
    """The foreign rollouts that a node has trained, as long as they could be chosen again.

    A place (node, round, slot) is trained once: of two rollouts that two writers under one node number put there,
    the second is never trained.
    """

    def __init__(self, node: int, max_age: int) -> None:
        self.node, self.max_age = node, max_age
        self._round = -1
        self._taken: dict[Place, str] = {}

    @property
    def rounds(self) -> int:
        """Rounds up to the last one that was taken over."""
        return self._round + 1

    def has(self, rollout: Rollout) -> bool:
        """Whether it, or another of its place, was trained."""
        return rollout.place in self._taken

    def add(self, entry: Entry) -> None:
        """Take a round over. Raises ValueError for one that is not after the last, or that trains a rollout again."""
        if entry.node != self.node or entry.round <= self._round:
            raise ValueError(f"round {entry.round} of node {entry.node} after round {self._round} of node {self.node}")
        new = {(one.node, one.round, one.slot): one.id for one in entry.foreign}
        if len(new) < len(entry.foreign) or new.keys() & self._taken.keys():
            raise ValueError(f"round {entry.round} of node {entry.node} trains a rollout twice")
        self._round = entry.round
        self._taken.update(new)
        self._taken = {place: id for place, id in self._taken.items() if place[1] >= entry.round - self.max_age}

    def to_json(self) -> Json:
        """All of it, for the state of a loop."""
        taken: Iterable[Any] = ([*place, id] for place, id in sorted(self._taken.items()))
        return {"node": self.node, "max_age": self.max_age, "round": self._round, "taken": list(taken)}

    @classmethod
    def from_json(cls, value: Any) -> Ledger:
        """Read what `to_json` made. Raises BadData."""
        try:
            ledger = cls(int(value["node"]), int(value["max_age"]))
            ledger._round = int(value["round"])
            for node, round, slot, name in value["taken"]:
                ledger._taken[int(node), int(round), int(slot)] = str(name)
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(f"not the ledger of a node: {error}") from error
        return ledger

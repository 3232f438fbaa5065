"""The rollouts of others that have arrived at a node, and which of them it takes into a training set.

The paper leaves the choice to each node and uses `uniform-nonzero`. What published code does instead is there by name:
none of it does what the paper says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from hybrid.canonical import encode
from pipelines.sapo.advantages import is_dead
from pipelines.sapo.arrivals import Refusal
from pipelines.sapo.ledger import Ledger
from pipelines.sapo.rollouts import Place, Rollout
from pipelines.sapo.streams import order

Choice = Literal["uniform-nonzero", "uniform", "best-total", "first", "fixed-positions"]
"""How foreign rollouts are chosen:

- `uniform-nonzero`: groups without an advantage are discarded, then uniformly without replacement (the paper);
- `uniform`: uniformly without replacement, dead groups too (the paper's demonstration with many nodes);
- `best-total`: the highest total rewards, never a group with none (genrl 0.1.4, without the fault by which it looks for
  the end of the list in another order): it prefers groups that are right throughout, which have no advantage;
- `first`: the first ones met, without chance (rl-swarm to 0.6): by age, node and slot here, where there it is the order
  of arrival;
- `fixed-positions`: the same positions of the list in every round (Elrashid's rl-swarm, whose generator is seeded alike
  each round).
"""
AHEAD = 30
"""Rounds that another node may be ahead; what is further in the future is refused."""


class Candidate(NamedTuple):
    """A rollout that may be chosen. `rewards`: of its answers by this node's own verifier, in 1/10,000."""

    rollout: Rollout
    rewards: tuple[int, ...]
    age: int


def choose(
    pool: Sequence[Candidate],
    wanted: int,
    choice: Choice,
    seed: int,
    taken: Collection[str] = (),
    *,
    node: int = 0,
    round: int = 0,
    most: int = 0,
) -> list[Candidate]:
    """Up to `wanted` candidates of the pool, in the order in which they are trained; fewer where there are not enough.

    It depends on which candidates there are, not on their order. `seed`: of the run. Ids in `taken` are not chosen.
    `most`: of one node, those that come first; 0 for any number.
    """
    free = [one for one in pool if one.rollout.id not in taken]
    if choice == "uniform-nonzero":
        free = [one for one in free if not is_dead(one.rewards)]
    if choice in ("uniform-nonzero", "uniform"):
        drawn = order("foreign", seed, node, round)
        return _of_each(sorted(free, key=lambda one: drawn(one.rollout.id)), most)[:wanted]
    free = sorted(free, key=_listed)
    if choice == "best-total":
        earned = sorted((one for one in free if sum(one.rewards)), key=lambda one: -sum(one.rewards))
        return _of_each(earned, most)[:wanted]
    free = _of_each(free, most)
    if choice == "first":
        return free[:wanted]
    drawn = order("position", seed, node)
    return [free[place] for place in sorted(sorted(range(len(free)), key=lambda one: drawn(str(one)))[:wanted])]


def _of_each(ordered: Sequence[Candidate], most: int) -> list[Candidate]:
    """The first `most` of each node, in their order; all with 0."""
    found: list[Candidate] = []
    counts: Counter[int] = Counter()
    for one in ordered:
        counts[one.rollout.node] += 1
        if not most or counts[one.rollout.node] <= most:
            found.append(one)
    return found


def _listed(one: Candidate) -> tuple[int, int, int, str]:
    return one.age, one.rollout.node, one.rollout.slot, one.rollout.id


def digest_of(pool: Iterable[Candidate]) -> str:
    """The sha256 of the sorted ids: which snapshot a choice was made from."""
    return hashlib.sha256(encode(sorted(one.rollout.id for one in pool))).hexdigest()


class Pool:
    """What has arrived at one node, as long as it may be chosen: up to `max_age` rounds old.

    A place (node, round, slot) holds the first rollout that arrives; another one there is of a second writer under the
    same number, and is refused.
    """

    def __init__(self, node: int, max_age: int, ahead: int = AHEAD) -> None:
        self.node, self.max_age, self.ahead = node, max_age, ahead
        self._held: dict[Place, Rollout] = {}

    def __len__(self) -> int:
        """Rollouts that are held."""
        return len(self._held)

    def add(self, rollouts: Iterable[Rollout], now: int) -> list[Refusal]:
        """Take what has arrived in round `now`; own rollouts and repeated ones are passed over. What was refused."""
        refused = []
        for one in rollouts:
            held = self._held.get(one.place)
            if one.node == self.node or (held and held.id == one.id):
                continue
            if why := self._refusal(one, held, now):
                refused.append(Refusal(*why, one.node, one.round))
            else:
                self._held[one.place] = one
        return refused

    def _refusal(self, one: Rollout, held: Rollout | None, now: int) -> tuple[str, str] | None:
        if one.round < now - self.max_age:
            return "too-old", f"of round {one.round} in round {now}, at most {self.max_age} rounds old"
        if one.round > now + self.ahead:
            return "from-the-future", f"of round {one.round} in round {now}, at most {self.ahead} rounds ahead"
        if held:
            return "second-writer", f"node {one.node} has two rollouts of round {one.round}, slot {one.slot}"
        return None

    def candidates(
        self, now: int, rewards: Callable[[Rollout], tuple[int, ...]], ledger: Ledger | None = None
    ) -> list[Candidate]:
        """What may be chosen in round `now`, sorted by id: not from later rounds, and not trained before."""
        self._held = {place: one for place, one in self._held.items() if one.round >= now - self.max_age}
        free = [one for one in self._held.values() if one.round <= now and not (ledger and ledger.has(one))]
        return [Candidate(one, rewards(one), now - one.round) for one in sorted(free, key=lambda one: one.id)]

    def arrived_from(self, round: int) -> set[int]:
        """The nodes of which there are rollouts of a round."""
        return {node for node, number, _ in self._held if number == round}

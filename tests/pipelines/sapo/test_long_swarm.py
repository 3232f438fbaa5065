"""2,000 rounds of eight nodes on a folder that delays what is published by up to half an hour, by the pure parts."""

from __future__ import annotations

import heapq
import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import pytest

from pipelines.sapo.advantages import advantages, mean_reward
from pipelines.sapo.arrivals import Expected, unpack
from pipelines.sapo.ledger import Entry, Group, Ledger, Used, digest_of
from pipelines.sapo.pool import AHEAD, Pool, choose
from pipelines.sapo.pool import digest_of as digest_of_pool
from pipelines.sapo.rollouts import Answer, Batch, Rollout, pack
from pipelines.sapo.streams import question

NODES, OWN, FOREIGN, MAX_AGE, SEED = 8, 1, 1, 26, 5
TASKS = ("bf", "arc_1d")
HALF_HOUR = 1800.0


def expected(rounds: int) -> Expected:
    return Expected("c" * 64, 2, NODES, OWN, rounds, TASKS, lambda *place: question(TASKS, SEED, *place))


@dataclass
class Folder:
    """A folder that shows each reader what was published after a while, sometimes twice, in any order."""

    chance: random.Random
    rounds: int
    inboxes: list[list[tuple[float, int, Batch]]] = field(default_factory=lambda: [[] for _ in range(NODES)])
    published: dict[str, Rollout] = field(default_factory=dict)
    count: int = 0

    def publish(self, batch: Batch, now: float) -> None:
        found = unpack(pack([batch]), expected(self.rounds), batch.node)
        assert not found.refused
        self.published |= {one.id: one for one in batch.rollouts}
        for inbox in self.inboxes:
            for _ in range(1 + (self.chance.random() < 0.1)):
                delay = HALF_HOUR * self.chance.random() if self.chance.random() < 0.2 else 30 * self.chance.random()
                self.count += 1
                heapq.heappush(inbox, (now + delay, self.count, found.batches[0]))

    def arrived(self, node: int, now: float) -> list[Batch]:
        inbox, found = self.inboxes[node], []
        while inbox and inbox[0][0] <= now:
            found.append(heapq.heappop(inbox)[2])
        return found


class Node:
    """A node that writes two short answers a question, takes from its pool, and keeps its ledger as a loop does."""

    def __init__(self, number: int) -> None:
        self.number, self.lives, self.round = number, 0, 0
        self.pool, self.ledger = Pool(number, MAX_AGE), Ledger(number, MAX_AGE)
        self.entries: dict[int, Entry] = {}
        self.rewards: dict[int, float] = {}
        self.refused: Counter[str] = Counter()
        self.later: list[Batch] = []
        self.kept: tuple[int, object] = 0, self.ledger.to_json()

    def write(self) -> Batch:
        def rollout(slot: int) -> Rollout:
            task, index = question(TASKS, SEED, self.number, self.round, slot)
            answers = Answer(f"{index}", True), Answer(f"life {self.lives}", False)
            return Rollout("c" * 64, self.number, self.round, slot, task, index, answers)

        return Batch("c" * 64, self.number, self.round, self.round, "", tuple(map(rollout, range(OWN))))

    def go(self, folder: Folder, now: float) -> None:
        """One round: as a loop does it, with the least that stands for a policy."""
        own = self.write()
        folder.publish(own, now)
        arrived = [*self.later, *folder.arrived(self.number, now)]
        self.later = [batch for batch in arrived if batch.round > self.round + AHEAD]  # as a loop leaves it there
        for batch in arrived:
            if batch.round > self.round + AHEAD:
                continue
            self.refused.update(one.kind for one in self.pool.add(batch.rollouts, self.round))
        pool = self.pool.candidates(self.round, lambda one: (1000, 1000), self.ledger)
        taken = choose(pool, FOREIGN, "uniform", SEED, node=self.number, round=self.round)
        groups = [Group(one, (1000, 1000), advantages((1000, 1000)), own=True) for one in own.rollouts]
        groups += [Group(one.rollout, one.rewards, advantages(one.rewards), own=False) for one in taken]
        used = tuple(Used(*one.rollout.place, one.rollout.id, one.rewards) for one in groups)
        entry = Entry(
            self.number, self.round, used, FOREIGN, SEED, len(pool), digest_of_pool(pool), digest_of(groups)
        )  # fmt: skip
        self.ledger.add(entry)
        self.entries[self.round] = entry
        self.rewards[self.round] = mean_reward([one.rewards for one in groups])
        self.round += 1
        if self.round % 7 == 0:
            self.kept = self.round, json.loads(json.dumps(self.ledger.to_json()))

    def kill(self) -> None:
        """Another machine goes on from the last state that was kept; what was in memory is gone."""
        self.lives += 1
        self.round, ledger = self.kept
        self.ledger, self.pool = Ledger.from_json(ledger), Pool(self.number, MAX_AGE)
        for later in [one for one in self.entries if one >= self.round]:
            del self.entries[later], self.rewards[later]


@cache
def swarm(rounds: int) -> tuple[list[Node], Folder]:
    chance = random.Random(1)
    folder, nodes = Folder(chance, rounds), [Node(number) for number in range(NODES)]
    turns = [(0.0, number) for number in range(NODES)]
    while turns:
        now, number = heapq.heappop(turns)
        node = nodes[number]
        if node.round == rounds:
            continue
        node.go(folder, now)
        if chance.random() < 0.01:
            node.kill()
        heapq.heappush(turns, (now + 60 + 30 * chance.random(), number))
    return nodes, folder


@pytest.mark.parametrize("rounds", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_eight_nodes_on_a_slow_folder_train_every_rollout_once_at_most(rounds: int) -> None:
    nodes, folder = swarm(rounds)
    for node in nodes:
        entries = [node.entries[round] for round in range(rounds)]
        foreign = [one for entry in entries for one in entry.foreign]
        assert len({(one.node, one.round, one.slot) for one in foreign}) == len(foreign)
        assert max(age for entry in entries for age in entry.ages) <= MAX_AGE
        assert len(foreign) > 0.9 * FOREIGN * rounds  # 20 % come late, within the age: nobody waits, few are short
    assert sum(node.lives for node in nodes) > rounds // 50
    assert {kind for node in nodes for kind in node.refused} <= {"second-writer", "too-old"}
    for entry in nodes[3].entries.values():  # all that was trained can be read again
        found = [folder.published[one.id] for one in entry.used]
        groups = [Group(one, used.rewards, None, one.node == 3) for one, used in zip(found, entry.used, strict=True)]
        assert digest_of(groups) == entry.set


@pytest.mark.parametrize("rounds", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_cumulative_metric_of_a_policy_that_always_earns_a_tenth(rounds: int) -> None:
    nodes, _ = swarm(rounds)
    total = math.fsum(one for node in nodes for one in node.rewards.values())
    assert total == pytest.approx(0.1 * NODES * rounds, rel=1e-12)

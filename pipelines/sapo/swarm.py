"""A swarm on one machine: in every round all nodes write, share and train, over one base model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.canonical import Json
from hybrid.loops import Lab, Policies, Publications, RoundFailed, Series
from hybrid.metrics import RoundMetrics
from hybrid.round_costs import Costs
from pipelines.sapo import scores
from pipelines.sapo.advantages import is_dead
from pipelines.sapo.arms import arm_of, node_name
from pipelines.sapo.arrivals import Expected
from pipelines.sapo.chosen import Chosen, chosen, with_more
from pipelines.sapo.configuration import configuration_of, expected_of
from pipelines.sapo.evaluation import Evaluation
from pipelines.sapo.ledger import Ledger
from pipelines.sapo.node import Node, rewards_of
from pipelines.sapo.other_sampler import compared
from pipelines.sapo.pool import Candidate, Pool
from pipelines.sapo.rollouts import Batch, Rollout, packed
from pipelines.sapo.segment_names import segment_name
from pipelines.sapo.settings import SapoSettings
from pipelines.sapo.swarm_state import SwarmState
from pipelines.sapo.training import train
from pipelines.sapo.training_set import Reader, TrainingSet, training_set
from pipelines.sapo.warm_up import warm_up

LOG = logging.getLogger("hybrid")
COLD = 20
"""Rounds at the beginning after which a swarm that has earned nothing to learn from is told."""
MOST_REWARDS = 20_000
"""Rollouts whose rewards are known; many nodes train on the same ones."""
WEIGHTS_EVERY = 10
"""Rounds between two digests of the weights in the records."""


@dataclass(slots=True)
class Written:
    """What a node wrote in a round, with its rewards; the tokens of it, and its scores on held-out questions."""

    own: list[Candidate]
    tokens: int
    evaluation: Mapping[str, float]


class Swarm:
    """The nodes `numbers` of one arm and seed. A `hybrid.loops.PublishingLoop`."""

    publications: Publications

    def __init__(self, settings: SapoSettings, series: Series, lab: Lab, numbers: Sequence[int]) -> None:
        self.settings, self.name, self._lab = settings, segment_name(series.name), lab
        self.arm, self.seed = arm_of(str(series.settings["arm"])), int(str(series.settings["seed"]))
        self.configuration = configuration_of(settings, self.arm.name, self.seed)
        self.nodes = [
            Node(settings, self.arm, self.seed, number, place, self.configuration)
            for place, number in enumerate(numbers)
        ]
        self.evaluation = Evaluation(settings)
        self.kept = SwarmState([Ledger(number, settings.max_age) for number in numbers], [0.0] * len(numbers))
        self.pools = [Pool(number, settings.max_age) for number in numbers]
        self._policies: Policies | None = None
        self._reader: Reader | None = None
        self._rewards: dict[str, tuple[int, ...]] = {}
        self._samplers: dict[int, Json] = {}  # place of a node -> how far another sampler was off in this round

    def publish_to(self, publications: Publications) -> None:
        """`hybrid.loops.PublishingLoop`."""
        self.publications = publications

    def round(self, number: int) -> RoundMetrics:
        """Write, share, train. Raises RoundFailed."""
        costs = Costs()
        with costs.timed("generate_seconds"):
            slots = [(0, self.arm.own)] * len(self.nodes)
            wrote = self.write(number, slots, tested=self.evaluation.is_due(number))
        self.share(number, self.batches(number, wrote))
        return self.train(number, wrote, costs)

    def write(self, number: int, slots: Sequence[tuple[int, int]], *, tested: bool) -> list[Written]:
        """What every node writes in its slots of a round, from the first up to the end, all nodes together.

        `tested`: they also answer the held-out questions. Raises RoundFailed.
        """
        policies = self.policies
        asked = [node.asked(policies, number, *of) for node, of in zip(self.nodes, slots, strict=True)]
        prompts = [node.prompts(of, number) for node, of in zip(self.nodes, asked, strict=True)]
        tests = [self.evaluation.prompts(policies, node) if tested else [] for node in self.nodes]
        self.kept.asked = self.kept.asked or any(prompts)
        if not self.kept.asked and number >= COLD - 1:
            raise RoundFailed(
                "no-room", f"no question of {COLD} rounds left room for max_tokens in the model's context"
            )
        every = [prompt for of in (*prompts, *tests) for prompt in of]
        sampled = iter(policies.sample(every) if every else ())
        texts = [[next(sampled) for _ in of] for of in prompts]
        answers = [[next(sampled) for _ in of] for of in tests]
        if policies.sampler and self.settings.importance_cap and self.settings.top_p == 1:
            self._samplers = compared(policies, prompts, texts) | self._samplers
        found = []
        for node, of, wrote, test in zip(self.nodes, asked, texts, answers, strict=True):
            rollouts = node.rollouts(of, wrote, number, policies.tokenizer)
            own = [Candidate(one, self.rewards(one), 0) for one in rollouts]
            tokens = sum(len(one.ids) for one in wrote)
            found.append(Written(own, tokens, self.evaluation.scores(test) if tested else {}))
        return found

    def batches(self, number: int, wrote: Sequence[Written]) -> list[Batch]:
        """What was written, as it is shared."""
        tokenizer = self.policies.tokenizer
        return [
            Batch(self.configuration, node.number, number, number, tokenizer, tuple(each.rollout for each in one.own))
            for node, one in zip(self.nodes, wrote, strict=True)
            if one.own
        ]

    def share(self, number: int, batches: Sequence[Batch], *, more: bool = False) -> None:
        """Give what was written to all nodes. `more`: it was written after others had been found missing."""
        self.kept.recent += batches
        self.kept.unpublished += batches
        for pool in self.pools:
            for batch in batches:
                pool.add(batch.rollouts, number)

    def publish(self, number: int) -> None:
        """Publish the rounds of a segment at its end, for those who read texts and rebuild rounds."""
        every = self.settings.publish_every
        last = (number + 1) % every == 0 or number == self.settings.rounds - 1
        if last and self.kept.unpublished:
            for part in packed(self.kept.unpublished):
                self.publications.publish(self.name, number // every, part)
            self.kept.unpublished = []

    def train(self, number: int, wrote: Sequence[Written], costs: Costs) -> RoundMetrics:
        """Train on what was written and what others have shared: the rest of a round."""
        sets = [self._chosen(number, node, one) for node, one in zip(self.nodes, wrote, strict=True)]
        if self.settings.shortfall == "own":
            with costs.timed("generate_seconds"):
                sets = self._topped_up(number, wrote, sets)
        self.publish(number)
        with costs.timed("train_seconds"):
            texts = {node.place: self._texts(node, one) for node, one in zip(self.nodes, sets, strict=True)}
            done = train(self.policies, texts, self.settings)
        groups: dict[str, Mapping[str, float]] = {}
        notes: dict[str, Json] = {}
        for node, one, of in zip(self.nodes, wrote, sets, strict=True):
            at, total = node.place, self.kept.cumulative[node.place]
            groups[node_name(node.number)] = found = {
                **scores.written(one.own, self.settings.prefix, one.tokens),
                **one.evaluation,
                **scores.trained(of.groups, of.entry, texts[at], done[at], total),
                "no_room": self.arm.own - sum(each.rollout.slot < self.arm.own for each in one.own),
            }
            self.kept.cumulative[at] = found["cumulative"]
            self.kept.ledgers[at].add(of.entry)
            notes[node_name(node.number)] = self._note(number, node, of)
        self.kept.forget(number, self.settings.max_age)
        self._tell_of_a_cold_start(number, list(groups.values()))
        costs.measure_memory(self._lab.device)
        return RoundMetrics(number, scores.of_swarm(list(groups.values())), groups, notes, {self.whose: costs})

    @property
    def whose(self) -> str:
        """The group that the costs of a round are of."""
        return ""

    def rewards(self, rollout: Rollout) -> tuple[int, ...]:
        """The rewards of a rollout's answers, by this machine's own verifier."""
        if rollout.id not in self._rewards:
            if len(self._rewards) >= MOST_REWARDS:
                self._rewards.clear()
            self._rewards[rollout.id] = rewards_of(self.settings, rollout)
        return self._rewards[rollout.id]

    def refused(self, node: Node) -> Mapping[str, int]:
        """Kind -> rollouts of others that were refused in this round."""
        return {}

    def _chosen(self, number: int, node: Node, wrote: Written) -> Chosen:
        ledger, pool = self.kept.ledgers[node.place], list[Candidate]()
        if node.arm.shared:
            pool = self.pools[node.place].candidates(number, self.rewards, ledger)
        elif node.arm.repeated:
            pool = self._earlier(number, node)
        return chosen(node, number, wrote.own, pool, self.refused(node))

    def _earlier(self, number: int, node: Node) -> list[Candidate]:
        """A node's own rollouts of earlier rounds that have an advantage."""
        rollouts = [one for batch in self.kept.recent if batch.node == node.number for one in batch.rollouts]
        old = [one for one in rollouts if number - self.settings.max_age <= one.round < number]
        found = [Candidate(one, self.rewards(one), number - one.round) for one in old]
        return [one for one in found if not is_dead(one.rewards)]

    def _topped_up(self, number: int, wrote: Sequence[Written], sets: Sequence[Chosen]) -> list[Chosen]:
        """The training sets with further questions of the nodes' own, in place of foreign rollouts that there were not.

        They also stand for own questions without room, but no node asks in more slots than others expect of it. What
        was written for them is added to `wrote`.
        """
        own, most = self.arm.own, self.expected().slots
        size = own + self.arm.shared
        slots = [(own, min(most, own + max(0, size - len(one.groups)))) for one in sets]
        if all(first == end for first, end in slots):
            return list(sets)
        more = self.write(number, slots, tested=False)
        self.share(number, self.batches(number, more), more=True)
        for one, further in zip(wrote, more, strict=True):
            one.own += further.own
            one.tokens += further.tokens
        return [with_more(of, node, one.own) for of, node, one in zip(sets, self.nodes, more, strict=True)]

    def _texts(self, node: Node, of: Chosen) -> TrainingSet:
        policies, how = self.policies, self.settings
        if self._reader is None:
            decode = policies.decode if how.foreign_ids else None
            self._reader = Reader(policies.encode, policies.end, policies.tokenizer, decode)

        def prompt_of(rollout: Rollout) -> tuple[int, ...]:
            prompt = node.prompt(policies, rollout.task, rollout.index)
            if prompt is None:
                raise ValueError("the prompt leaves no room for an answer")
            return prompt

        room, longest = policies.context, how.max_tokens
        return training_set(
            node.place, of.groups, self._reader, prompt_of, context=room, normalise=how.normalise, longest=longest
        )

    def _note(self, number: int, node: Node, of: Chosen) -> Json:
        note = of.entry.to_json()
        if node.place in self._samplers:
            note["sampler"] = self._samplers.pop(node.place)
        if (number + 1) % WEIGHTS_EVERY == 0 or number == self.settings.rounds - 1:
            note["weights"] = self.policies.digest(node.place)
        return note

    def _tell_of_a_cold_start(self, number: int, nodes: Sequence[Mapping[str, float]]) -> None:
        """Warn once of a swarm whose groups have had no unequal rewards since its beginning."""
        if self.kept.cold == number and all(one.get("dead", 1.0) >= 0.99 for one in nodes):
            self.kept.cold += 1
            if self.kept.cold == COLD:
                LOG.warning(
                    "%s: in %d rounds hardly any question had answers of different rewards, so nothing is learnt; "
                    "try level=easy, warm_up=50, or a larger model", self.name, COLD,
                )  # fmt: skip

    @property
    def policies(self) -> Policies:
        """The nodes' policies, opened when they are first needed. Raises CannotRun."""
        if self._policies is None:
            self._policies = policies = self._lab.policies(len(self.nodes), self.settings.tuning())
            for node in self.nodes:
                policies.begin(node.place, self.seed)
                if self.settings.warm_up:
                    warm_up(policies, node, self.settings)
                    policies.rest(node.place)
        return self._policies

    @property
    def rounds_done(self) -> int:
        """`hybrid.loops.CountingLoop`."""
        return self.kept.ledgers[0].rounds

    def state(self) -> bytes:
        """What the next round depends on."""
        return self.kept.pack(self.policies.state())

    def load(self, state: bytes) -> None:
        """Raises BadData."""
        numbers = [node.number for node in self.nodes]
        kept, weights = SwarmState.read(state, numbers, self.expected())
        if self._policies is None:
            self._policies = self._lab.policies(len(self.nodes), self.settings.tuning())
        self._policies.load(weights)
        self.kept = kept
        for pool in self.pools:
            for batch in kept.recent:
                pool.add(batch.rollouts, batch.round)

    def expected(self) -> Expected:
        """What rollouts of this swarm look like, whoever wrote them."""
        return expected_of(self.settings, self.arm, self.seed)

    def close(self) -> None:
        """Give the base model back as it was."""
        if self._policies is not None:
            self._policies.close()
            self._policies = None

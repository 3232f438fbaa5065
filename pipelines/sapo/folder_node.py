"""One node of a swarm as a loop of its own, on any machine: it meets the others in the run's folder only.

It publishes what it wrote in a round, takes what the others have published, and trains. Nobody waits for a machine that
is gone. What comes of a round depends on which rollouts had arrived; its record names them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hybrid.loops import Lab, NotYet, Segment, Series
from hybrid.machine.terminal import clean_line
from hybrid.metrics import RoundMetrics
from hybrid.round_costs import Costs
from pipelines.sapo.arms import node_name
from pipelines.sapo.arrivals import Refusal, unpack
from pipelines.sapo.node import Node
from pipelines.sapo.pool import AHEAD, Candidate
from pipelines.sapo.quarantine import MOST_SEGMENTS, Quarantine
from pipelines.sapo.rollouts import Batch, Rollout, packed
from pipelines.sapo.segment_names import MORE
from pipelines.sapo.settings import SapoSettings
from pipelines.sapo.swarm import Swarm, Written

LOG = logging.getLogger("hybrid")
MOST_LATER = 20_000
"""Segments far ahead that are remembered."""


class FolderNode(Swarm):
    """Node `number` of a swarm. A `hybrid.loops.PublishingLoop`. One of an arm that does not share waits for nobody."""

    def __init__(self, settings: SapoSettings, series: Series, lab: Lab, number: int) -> None:
        super().__init__(settings, series, lab, [number])
        self.number = number
        swarm = self.name.removesuffix(node_name(number))
        others = {swarm + node_name(one): one for one in range(settings.nodes) if one != number}
        self._senders = others | {name + MORE: one for name, one in others.items()}
        self._round = -1  # the round in hand, what was written in it, and when, in seconds of `time.monotonic`
        self._wrote: list[Written] = []
        self._since = 0.0
        self._costs = Costs()
        self._looked = 0.0  # when it last looked whether to wait, in this round
        self._waited: dict[int, float] = {}  # node -> seconds that it was waited for since something of it arrived
        self._later: set[tuple[str, int]] = set()  # names and numbers of segments that are too far ahead
        self._refused: Counter[str] = Counter()  # kind -> rollouts of the round in hand
        self._told: set[str] = set()  # kinds of refusals that were told
        self._quarantine = Quarantine()

    def round(self, number: int) -> RoundMetrics:
        """Write and publish, then train once enough of the others is there. Raises NotYet, RoundFailed."""
        if self._round != number:
            self._costs = Costs()
            with self._costs.timed("generate_seconds"):
                self._wrote = self._own(number)
            if self.arm.repeated:
                self.kept.recent += self.batches(number, self._wrote)
            self._round, self._since, self._refused = number, time.monotonic(), Counter()
            self._looked = self._since
        if self.arm.shared:
            self._take(number)
            self._wait(number)
        self._costs["wait_seconds"] = time.monotonic() - self._since
        return self.train(number, self._wrote, self._costs)

    def _own(self, number: int) -> list[Written]:
        """What this node writes in the round, or has written and published before a kill."""
        tested = self.evaluation.is_due(number)
        rollouts = self._published(number)
        if rollouts is None:
            wrote = self.write(number, [(0, self.arm.own)], tested=tested)
            self.share(number, self.batches(number, wrote))
            return wrote
        own = [Candidate(one, self.rewards(one), 0) for one in rollouts]
        tokens = sum(len(answer.ids) for one in rollouts for answer in one.answers)
        (test,) = self.write(number, [(self.arm.own, self.arm.own)], tested=tested)
        return [Written(own, tokens, test.evaluation)]

    def _published(self, number: int) -> list[Rollout] | None:
        """The rollouts of this node and round in the folder, by slot; None where they are not all there, where two
        machines wrote, and where somebody else did: of rollouts as its own a node trains the ids.
        """
        found: dict[int, Rollout] = {}
        for segment in self.publications.read(self.name, number):
            read = unpack(segment.data, self.expected(), self.number)
            rollouts = [one for batch in read.batches for one in batch.rollouts]
            if read.refused or any(one.round != number or one.slot in found for one in rollouts):
                return None
            found |= {one.slot: one for one in rollouts}
        wanted = {one.slot for one in self.nodes[0].asked(self.policies, number, 0, self.arm.own)} if found else set()
        if found.keys() != wanted or not all(map(self._could_write, found.values())):
            return None
        return [found[slot] for slot in sorted(found)] or None

    def _could_write(self, rollout: Rollout) -> bool:
        """Whether the policies can have drawn the ids of all answers, and then have told their texts."""
        policies = self.policies
        try:
            texts = [policies.text_of(one.ids, ended=one.ended) for one in rollout.answers]
        except ValueError:
            return False
        return rollout.tokenizer == policies.tokenizer and texts == [one.text for one in rollout.answers]

    def share(self, number: int, batches: Sequence[Batch], *, more: bool = False) -> None:
        """Publish what was written, at once."""
        for part in packed(batches):
            self.publications.publish(self.name + (MORE if more else ""), number, part)

    def publish(self, number: int) -> None:
        """All of it is published."""

    def refused(self, node: Node) -> Mapping[str, int]:
        """Kind -> rollouts of others that were refused since the last round."""
        return dict(sorted(self._refused.items()))

    @property
    def whose(self) -> str:
        """The group that the costs of a round are of."""
        return node_name(self.number)

    def _take(self, number: int) -> None:
        """Put what has arrived into the pool, and count what is refused."""
        self._quarantine.forget(number - self.settings.max_age)
        for segment in self._arrived(number):
            sender = self._senders[segment.name]
            if self._quarantine.holds(sender, number):
                self._refuse([Refusal("quarantine", f"{node_name(sender)} is in quarantine")], segment)
            elif not self._quarantine.opens(segment.name, segment.number):
                why = f"more than {MOST_SEGMENTS} segments of a round"
                self._refuse([Refusal("too-many", why)], segment)
            else:
                self._open(segment, sender, number)

    def _open(self, segment: Segment, sender: int, number: int) -> None:
        """Put the rollouts of a segment into the pool, and the sender into quarantine when too little can be used."""
        (pool,) = self.pools
        found = unpack(segment.data, self.expected(), sender)
        refused, used = list(found.refused), 0
        for batch in found.batches:
            if batch.round == segment.number:
                held = len(pool)
                refused += pool.add(batch.rollouts, number)
                used += len(pool) - held  # what is sent again is of no use
            else:
                refused.append(Refusal("round-mismatch", f"rollouts of round {batch.round}", sender, batch.round))
        if found.batches:
            self._waited[sender] = 0.0
        self._refuse(refused, segment)
        if rounds := self._quarantine.judge(sender, [one.kind for one in refused], used, number):
            LOG.warning(
                "%s: %s is in quarantine for %d rounds: little of what it publishes can be used",
                self.name, node_name(sender), rounds,
            )  # fmt: skip

    def _arrived(self, number: int) -> Iterator[Segment]:
        """What has arrived of others. What is far ahead is left in the folder until its round is near."""
        oldest, near = max(0, number - self.settings.max_age), number + AHEAD
        due = sorted(one for one in self._later if one[1] <= near)
        self._later.difference_update(due)
        for name, of in due:
            yield from self.publications.read(name, of)
        for segment in self.publications.arrived(since=oldest, names=self._senders.keys()):
            if segment.number <= near:
                yield segment
            elif len(self._later) < MOST_LATER:
                self._later.add((segment.name, segment.number))

    def _refuse(self, refused: Sequence[Refusal], segment: Segment) -> None:
        self._refused.update(one.kind for one in refused)
        for one in refused:
            if one.kind not in self._told:
                self._told.add(one.kind)
                LOG.warning(
                    "%s: refused what %s published of round %d (%s: %s); more of this kind is only counted",
                    self.name, segment.name, segment.number, one.kind, clean_line(one.why, 300),
                )  # fmt: skip

    def _wait(self, number: int) -> None:
        """Raises NotYet while others are waited for: those that are not there, nor gone.

        A node is gone when it was waited for `deadline` seconds in all, over however many rounds, since something of it
        arrived. The time in which this node writes and trains does not count: all may be slow.
        """
        how, now = self.settings, time.monotonic()
        (pool,) = self.pools
        here = pool.arrived_from(number)
        missing = [one for one in range(how.nodes) if one != self.number and one not in here]
        for one in missing:
            self._waited[one] = self._waited.get(one, 0.0) + now - self._looked
        self._looked = now
        held = self._quarantine.holds
        alive = [one for one in missing if self._waited[one] < how.deadline and not held(one, number)]
        if how.barrier == "deadline":
            waiting = bool(alive) and now - self._since < how.deadline
        else:
            needed = math.ceil(how.quorum * (how.nodes - 1))
            waiting = bool(alive) and how.barrier == "quorum" and how.nodes - 1 - len(missing) < needed
        if waiting:
            names = ", ".join(node_name(one) for one in alive[:5])
            raise NotYet(f"round {number} of {len(alive)} of {how.nodes - 1} other nodes: {names}")

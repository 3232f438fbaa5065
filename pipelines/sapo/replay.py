"""A training set made again, to the bit, from what the nodes published and what the record of its round names.

Nothing here needs a model or a tokenizer: texts, rewards, advantages and their order are compared, which the digest
on record is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from hybrid.canonical import Json
from hybrid.errors import BadData
from hybrid.loops import Segment
from hybrid.metrics import RoundMetrics
from hybrid.protocols import Replayed
from pipelines.sapo.advantages import ONE, advantages
from pipelines.sapo.arms import Arm, arm_of, node_name
from pipelines.sapo.arrivals import unpack
from pipelines.sapo.configuration import expected_of
from pipelines.sapo.ledger import Entry, Group, Used, digest_of
from pipelines.sapo.node import rewards_of, the_question
from pipelines.sapo.rollouts import Rollout
from pipelines.sapo.segment_names import segments_of
from pipelines.sapo.settings import SapoSettings

Read = Callable[[str, int], Sequence[Segment]]
LONGEST = 2000
"""Characters of a question, and of an answer, that are shown to people."""


def replay(
    settings: SapoSettings, of: Mapping[str, Any], series: str, metrics: RoundMetrics, group: str, read: Read
) -> Replayed:
    """The training set of the node `group` (`node-3`) in a round. `of`: the task of the series. Raises BadData."""
    node = next((one for one in range(settings.nodes) if node_name(one) == group), None)
    if node is None:
        raise BadData(f"{series}: {group!r:.60} is none of its {settings.nodes} nodes")
    entry = Entry.from_json(metrics.notes.get(group), node, metrics.round)
    library = Library(settings, arm_of(str(of["arm"])), int(of["seed"]), series, read)
    groups, missing, wrong = list[Group](), list[str](), list[str]()
    for used in entry.used:
        found = library.find(used)
        if found is None:
            missing.append(library.told(used))
            continue
        rollout, rewards = found
        if rewards != used.rewards:
            wrong.append(f"{told(used)} earns {shown(rewards)}, and the record says {shown(used.rewards)}")
        made = advantages(rewards, scaled=settings.advantage == "scaled")
        groups.append(Group(rollout, rewards, made, used.node == node))
    digest = digest_of(groups)
    if not missing and digest != entry.set:
        wrong.append(f"the digest of the training set is {digest}, and the record says {entry.set:.80}")
    value = {"series": series, "round": metrics.round, "node": node, **entry.to_json()}
    asked = [the_question(one.rollout.task, one.rollout.index, settings.level).text for one in groups]
    value |= {"matches": not missing and not wrong, "missing": missing, "wrong": wrong}
    value["groups"] = [_json(one, text) for one, text in zip(groups, asked, strict=True)]
    return Replayed(value, list(_lines(entry, groups, asked)), missing, wrong)


class Library:
    """The rollouts that were published in a swarm, found by the segments that should hold them."""

    def __init__(self, settings: SapoSettings, arm: Arm, seed: int, series: str, read: Read) -> None:
        self._settings, self._series, self._read = settings, series, read
        self._arm, self._seed = arm, seed

    def find(self, used: Used) -> tuple[Rollout, tuple[int, ...]] | None:
        """The rollout of that id, and its rewards by this machine's verifier."""
        return next((shelf.scored(used.id) for shelf in self._shelves(used) if used.id in shelf.rollouts), None)

    def told(self, used: Used) -> str:
        """What is missing, in words."""
        segments = " or ".join(f"{name} {number}" for name, number in self._names(used))
        place, how = (used.node, used.round, used.slot), self._settings
        if any(one.place == place for shelf in self._shelves(used) for one in shelf.rollouts.values()):
            segments += ": another is in its place"
        elif how.exchange == "memory":
            last = min((used.round // how.publish_every + 1) * how.publish_every, how.rounds) - 1
            segments += f", which is published in round {last}"
        return f"{told(used)} ({used.id:.32}), of the segment {segments}"

    def _names(self, used: Used) -> list[tuple[str, int]]:
        series = self._series
        if self._settings.exchange == "folder":
            series = f"{series.rpartition('/')[0]}/{node_name(used.node)}"
        return segments_of(self._settings, series, used.round)

    def _shelves(self, used: Used) -> Iterator[Shelf]:
        for place in self._names(used):
            for segment in self._read(*place):
                yield opened(segment, self._settings, self._arm, self._seed)


class Shelf:
    """The rollouts of a segment by id, and their rewards, computed once."""

    def __init__(self, settings: SapoSettings, rollouts: Mapping[str, Rollout]) -> None:
        self.rollouts, self._settings = rollouts, settings
        self._rewards: dict[str, tuple[int, ...]] = {}

    def scored(self, id: str) -> tuple[Rollout, tuple[int, ...]]:
        """A rollout and its rewards."""
        if id not in self._rewards:
            self._rewards[id] = rewards_of(self._settings, self.rollouts[id])
        return self.rollouts[id], self._rewards[id]


@lru_cache(maxsize=64)
def opened(segment: Segment, settings: SapoSettings, arm: Arm, seed: int) -> Shelf:
    """What a segment holds: one segment serves many nodes and rounds."""
    found = unpack(segment.data, expected_of(settings, arm, seed)).batches
    return Shelf(settings, {one.id: one for batch in found for one in batch.rollouts})


def told(used: Used) -> str:
    """Which rollout it is, in words."""
    return f"the rollout of {node_name(used.node)}, round {used.round}, slot {used.slot}"


def shown(rewards: Sequence[int]) -> str:
    """Rewards in units of a right answer."""
    return " ".join(f"{one / ONE:g}" for one in rewards)


def _json(group: Group, question: str) -> Json:
    rollout = group.rollout
    return {
        "node": rollout.node,
        "round": rollout.round,
        "id": rollout.id,
        "own": group.own,
        "question": question,
        "rewards": list(group.rewards),
        "advantages": None if group.advantages is None else list(group.advantages),
        "tokenizer": rollout.tokenizer,
        **rollout.to_json(),
    }


def _lines(entry: Entry, groups: Sequence[Group], asked: Sequence[str]) -> Iterator[str]:
    """The training set for people; texts are cut, and not yet safe for a terminal."""
    own = sum(one.own for one in groups)
    yield f"round {entry.round} of {node_name(entry.node)}: {own} own and {len(groups) - own} foreign rollouts"
    yield f"foreign: {len(entry.foreign)} of {entry.wanted} wanted, from a pool of {entry.pool}"
    for number, (group, question) in enumerate(zip(groups, asked, strict=True)):
        of = group.rollout
        whose = "own" if group.own else f"of {node_name(of.node)}"
        yield ""
        dead = ", no advantage" if group.advantages is None else ""
        yield f"{number + 1}. {whose}, round {of.round}, slot {of.slot}: {of.task} {of.index}, {of.id}{dead}"
        yield "   question:"
        yield from (f"      {line}" for line in _cut(question).splitlines())
        learnt = group.advantages or (0.0,) * len(of.answers)
        for answer, reward, advantage in zip(of.answers, group.rewards, learnt, strict=True):
            end = "" if answer.ended else " (cut)"
            yield f"   {reward / ONE:6.4g} {advantage:+8.3f}{end} {_cut(answer.text)}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
